# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers that run nodes as jobs: Slurm, Kubernetes, any command; know the contract in `providers.base`."""
