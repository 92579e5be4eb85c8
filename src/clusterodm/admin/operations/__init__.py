# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators can do: one table (table.py), each row with its function in the module of its name.

Nothing is imported here, and the table imports no cluster: the command line reads it, too.
"""
