# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm health`: check that the cluster of a data folder answers, whatever its ports are."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from typing import Annotated, Final

import typer

from clusterodm.files.folder import noted_ports

#: Seconds to wait for an answer.
_TIMEOUT: Final = 4.0
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - they are read, not bound


def health(
    data_dir: Annotated[
        Path, typer.Option(help="The data folder.", envvar="CLUSTERODM_DATA_DIR", show_envvar=True)
    ] = Path("data"),
) -> None:
    """Check that the cluster of a data folder on this machine accepts requests; for health checks of containers."""
    noted = noted_ports(data_dir)
    if noted is None or not noted.ports:
        raise typer.Exit(_report(f"no cluster has been started on {data_dir}"))
    host, port = _EVERYWHERE.get(noted.host, noted.host), noted.ports[0]
    status = _ask(http.client.HTTPConnection(host, port, timeout=_TIMEOUT))
    status = status or _ask(http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=_unchecked()))
    raise typer.Exit(
        _report(f"{host}:{port} answers with {status}" if status else f"{host}:{port} does not answer", status)
    )


def _ask(connection: http.client.HTTPConnection) -> int:
    """Return the status of the answer; 0 if there is none."""
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _unchecked() -> ssl.SSLContext:
    """Return a context that accepts any certificate: it is for the name that clients use, not for this address."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _report(text: str, status: int = 0) -> int:
    typer.echo(text, err=status != 200)
    return 0 if status == 200 else 1
