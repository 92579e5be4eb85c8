# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers of machines: the contract, the clouds, and what new machines are told to do."""

from clusterodm.providers.base import TAG, CloudProvider, Provider, ProviderMachine, Spec, Status
from clusterodm.providers.bucket import Bucket
from clusterodm.providers.choose import Fleet, make_fleet
from clusterodm.providers.guarded import Guarded

__all__ = [
    "TAG",
    "Bucket",
    "CloudProvider",
    "Fleet",
    "Guarded",
    "Provider",
    "ProviderMachine",
    "Spec",
    "Status",
    "make_fleet",
]
