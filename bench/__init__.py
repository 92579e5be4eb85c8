# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Benchmarks: everything is compared with something in the same run, because absolute times depend on the machine."""
