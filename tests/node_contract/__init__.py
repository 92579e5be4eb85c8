# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the cluster relies on in a node, proved on the development node and on real ones (docs/devnode.md)."""
