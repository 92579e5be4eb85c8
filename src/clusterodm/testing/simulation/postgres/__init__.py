# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model of a PostgreSQL server: it speaks the wire protocol with the real driver, and keeps its tables in SQLite.

Transactions are READ COMMITTED with row locks, advisory locks, LISTEN and NOTIFY. SQL that it does not know ends the
simulation.
"""

from clusterodm.testing.simulation.postgres.server import Postgres
from clusterodm.testing.simulation.postgres.tables import Change

__all__ = ["Change", "Postgres"]
