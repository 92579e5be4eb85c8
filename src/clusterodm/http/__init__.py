# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server kit that proxy, admin and devnode share (bodies, forms, connections); knows nothing of a cluster."""
