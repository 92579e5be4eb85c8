# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many NodeODM processing nodes behind one address."""

__version__ = "0.2.0"
