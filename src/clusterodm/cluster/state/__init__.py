# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks, nodes (with health and options) and machines in memory, and their only writers; knows no loop of tasks."""
