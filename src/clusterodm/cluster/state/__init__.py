# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is known of tasks, nodes and machines, and the only writers of it; knows the store and no loop."""
