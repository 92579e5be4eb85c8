# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers of machines: the contract, the clouds, and what new machines are told to do."""

from clusterodm.providers.base import TAG, CloudProvider, MachineStatus, Provider, ProviderMachine, Spec
from clusterodm.providers.bounded import BoundedProvider
from clusterodm.providers.bucket import Bucket
from clusterodm.providers.choose import Fleet, make_fleet

__all__ = [
    "TAG",
    "BoundedProvider",
    "Bucket",
    "CloudProvider",
    "Fleet",
    "MachineStatus",
    "Provider",
    "ProviderMachine",
    "Spec",
    "make_fleet",
]
