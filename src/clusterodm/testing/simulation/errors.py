# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Errors of the simulation itself; none of them is one that simulated code should handle."""


class RealWorldError(BaseException):
    """Simulated code reached for something that the seed does not drive."""


class Deadlock(BaseException):
    """Nothing is ready and no timer is set: nothing can ever happen again."""
