# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients talk to: the NodeODM API, answered from memory wherever possible; decides nothing about tasks."""
