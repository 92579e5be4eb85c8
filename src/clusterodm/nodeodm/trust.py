# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which certificates of nodes are believed: those that the system's or the operator's authorities signed; all, for a
node of which an operator said so."""

from __future__ import annotations

import ssl
from pathlib import Path

from clusterodm.core.errors import ConfigError
from clusterodm.core.nodes import NodeAddress


class Trust:
    """TLS towards nodes. Raises ConfigError for a file of authorities that cannot be used."""

    def __init__(self, authorities: Path | None = None) -> None:
        self._verified = ssl.create_default_context()
        if authorities is not None:
            try:
                self._verified.load_verify_locations(authorities)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"--nodes-ca {authorities} cannot be used: {error.strerror or error}") from None
        self._unverified = ssl.create_default_context()
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE

    def context(self, node: NodeAddress) -> ssl.SSLContext:
        """The context for connections to `node`."""
        return self._unverified if node.insecure else self._verified
