# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Providers that rent machines from a cloud; know the contract in `providers.base` and their own API."""
