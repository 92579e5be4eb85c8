# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What operators talk to: each verb once (nodes, tasks, figures), thin under the shell, the web API, the page.

Nothing is imported here: the command line needs the records (views.py) and none of the rest.
"""
