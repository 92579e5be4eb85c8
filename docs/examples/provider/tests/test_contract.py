# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of a provider, tested against real processes."""

import sys

import pytest

from clusterodm.testing.contract import ProviderBackend, ProviderContract


class TestProcesses(ProviderContract):
    @pytest.fixture
    def backend(self, tmp_path):
        folder = tmp_path / "nodes"
        entry = {
            "provider": "processes",
            "command": [sys.executable, "-m", "clusterodm", "devnode", "--config"],
            "folder": str(folder),
            "imageSizeMapping": [{"maxImages": 100, "slug": "process"}],
        }
        return ProviderBackend(
            entry=entry,
            names=lambda: [path.stem for path in folder.glob("*.machine")],
        )
