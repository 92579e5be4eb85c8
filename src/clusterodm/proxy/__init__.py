# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients talk to: the NodeODM API, answered from memory wherever that is possible.

Nothing is imported here: the development node reads forms as we do (forms.py) and needs none of the rest.
"""
