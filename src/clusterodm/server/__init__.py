# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The composition root: builds a cluster from settings, runs it, opens its ports; only commands import it."""
