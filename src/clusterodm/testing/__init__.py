# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Contract tests, and fake clouds whose machines run real development nodes. Production code imports nothing from
here."""

from clusterodm.testing.digitalocean import DigitalOceanApi
from clusterodm.testing.hetzner import HetznerApi
from clusterodm.testing.kubernetes import KubernetesApi
from clusterodm.testing.scaleway import ScalewayApi
from clusterodm.testing.world import FakeMachine, World

__all__ = ["DigitalOceanApi", "FakeMachine", "HetznerApi", "KubernetesApi", "ScalewayApi", "World"]
