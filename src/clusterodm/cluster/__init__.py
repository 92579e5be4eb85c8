# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The loops that move tasks: each one watches the tasks in memory, decides in `core`, acts on nodes."""
