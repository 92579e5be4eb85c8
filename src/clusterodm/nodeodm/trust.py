# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Verification of nodes' certificates: by the authorities of the system and the operator, or not at all for nodes that
are configured as insecure."""

from __future__ import annotations

import ssl
from pathlib import Path

from clusterodm.core.errors import ConfigError
from clusterodm.core.nodes import NodeAddress


class Trust:
    """TLS contexts for nodes. Raise ConfigError if the file of authorities is not usable."""

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
        """Return the context for connections to `node`."""
        return self._unverified if node.insecure else self._verified
