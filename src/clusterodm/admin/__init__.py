# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators talk to: one table of operations, and shell, API and page on top of it.

Nothing is imported here: the command line needs the table and the views alone.
"""
