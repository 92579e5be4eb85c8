# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machine providers. `__all__` is the contract for providers outside of this package (docs/plugins.md); nothing here
knows tasks, nodes or the store."""

from clusterodm.aio import Clock
from clusterodm.core.backoff import Backoff
from clusterodm.core.errors import ConfigError, OutOfCapacity, ProviderError, Rejected, Throttled, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import (
    API_VERSION,
    TAG,
    CloudProvider,
    MachineSpec,
    MachineStatus,
    Provider,
    ProviderMachine,
)
from clusterodm.providers.bounded import BoundedProvider as BoundedProvider
from clusterodm.providers.bucket import Bucket as Bucket
from clusterodm.providers.choose import Fleet as Fleet
from clusterodm.providers.choose import make_fleet as make_fleet
from clusterodm.providers.choose import make_provider as make_provider
from clusterodm.providers.cloudinit import user_data
from clusterodm.providers.config import CloudConfig, ProviderConfig, Size, as_list, read_entry
from clusterodm.providers.node import node_config, node_image
from clusterodm.providers.rest import RestClient, RestResponse, require_field
from clusterodm.providers.throttling import retry_at

# The names imported `as` themselves are the cluster's own and may change with any release.
__all__ = [
    "API_VERSION",
    "TAG",
    "Backoff",
    "Clock",
    "CloudConfig",
    "CloudProvider",
    "ConfigError",
    "MachineSpec",
    "MachineStatus",
    "Offering",
    "OutOfCapacity",
    "PluginContext",
    "Provider",
    "ProviderConfig",
    "ProviderError",
    "ProviderMachine",
    "Rejected",
    "RestClient",
    "RestResponse",
    "Size",
    "Throttled",
    "Unreachable",
    "as_list",
    "node_config",
    "node_image",
    "read_entry",
    "require_field",
    "retry_at",
    "user_data",
]
