# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""One file for each concern in the life of a task; knows state, files and nodes, and nothing of HTTP servers."""
