# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""How nodes come to be known, and what is known of their health and options; knows state."""
