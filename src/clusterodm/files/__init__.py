# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files on disk: held files, consoles, results, archives and the data folder; knows no task, node or client."""
