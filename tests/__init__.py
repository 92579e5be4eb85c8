# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
import os

# where nginx, haproxy and slurmctld are, which the PATH of a user on Debian leaves out
os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
