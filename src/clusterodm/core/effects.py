# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings that have no effect without another one. Alone, they are refused: whoever set them relies on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

Values = Mapping[str, Any]


class Need(NamedTuple):
    """The requirement of a setting."""

    #: Returns a true value if the other settings meet it.
    met: Callable[[Values], Any]
    #: The requirement in words, to follow the setting's name.
    text: str


def _asks(values: Values, *names: str) -> bool:
    """Return True if the authenticator is one of these, or a plugin, which may read any setting."""
    built_in = {"local", "tokens", "lightning", "lightningdev"}
    return values["cloud_provider"] in names or values["cloud_provider"] not in built_in


def _any_admin_port(values: Values) -> bool:
    return bool(values["admin_cli_port"] or values["admin_web_port"])


#: All settings that need another one; every other setting has an effect of its own.
NEEDS: Final[Mapping[str, Need]] = {
    "secure_port": Need(lambda v: v["ssl_cert"] and v["ssl_key"], "needs --ssl-cert and --ssl-key"),
    "ssl_cert": Need(lambda v: v["ssl_key"], "needs --ssl-key"),
    "ssl_key": Need(lambda v: v["ssl_cert"], "needs --ssl-cert"),
    "admin_pass": Need(_any_admin_port, "needs --admin-cli-port or --admin-web-port"),
    "lease_token": Need(lambda v: v["admin_web_port"], "needs --admin-web-port, where nodes register themselves"),
    "token": Need(
        lambda v: _asks(v, "local"), "needs --cloud-provider local; the other authenticators have tokens of their own"
    ),
    "tokens_file": Need(lambda v: _asks(v, "tokens"), "needs --cloud-provider tokens; otherwise the file is not read"),
    "lightning_url": Need(
        lambda v: _asks(v, "lightning", "lightningdev"), "needs --cloud-provider lightning or lightningdev"
    ),
    "proxy_headers": Need(lambda v: v["trusted_proxies"], "needs --trusted-proxies: headers of others are not trusted"),
    "machine_poll_interval": Need(lambda v: v["asr"], "needs --asr"),
    "results_from_s3": Need(
        lambda v: v["asr"] and not v["downloads_from_s3"],
        "needs --asr, and no --downloads-from-s3, which takes precedence",
    ),
    "workers": Need(
        lambda v: v["database_url"], "needs --database-url: the database in the data folder is for one process"
    ),
}


def without_effect(values: Values, defaults: Values) -> Iterator[tuple[str, str]]:
    """Yield each setting that was changed from its default without effect, with its requirement."""
    for name, need in NEEDS.items():
        if values[name] != defaults[name] and not need.met(values):
            yield name, need.text
