# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Machines on demand: which to order, how each lives and ends; knows providers and state."""
