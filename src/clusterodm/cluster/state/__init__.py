# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks, nodes and machines in memory, and the only writers of them; knows the store, and nodes by their polls."""
