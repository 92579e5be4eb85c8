# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an application tells the server kit.

Three fast paths go around the web server: connections of pollers begin with a protocol of their own
(proxy/fastpath.py), large bodies are received by one (body.py), and results leave by sendfile and splice
(zero_copy.py). All that they rely on of aiohttp beyond its documentation: `web.Server` is a factory of protocols,
`Request.protocol` and `Request.transport`, and of `Request.content` `total_bytes`, `read_nowait` and `feed_eof`.
Without fast paths every byte goes through the web server.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aiohttp import web

from clusterodm.aio import Clock


class Kit(NamedTuple):
    """The clock of an application, and True if requests may take the fast paths."""

    clock: Clock
    fast_paths: bool


KIT: Final = web.AppKey("kit", Kit)
