# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decisions as pure functions over plain data: no clock, no socket, no await."""
