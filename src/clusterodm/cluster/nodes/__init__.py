# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How nodes are discovered and imported; knows state and tasks, and no provider."""
