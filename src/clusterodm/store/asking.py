# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read-only queries of a database that another process uses."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from clusterodm.core.tasks import ACTIVE
from clusterodm.store import schema
from clusterodm.store.database import down


async def ask_options(url: str) -> list[list[dict[str, Any]]]:
    """Return the options of all active tasks, without changing the database or its schema. Raises StoreDown."""
    engine = create_async_engine(url)
    query = select(schema.tasks.c.options).where(schema.tasks.c.phase.in_([phase.value for phase in ACTIVE]))
    try:
        async with engine.connect() as connection:
            rows = (await connection.execute(query)).scalars().all()
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise down(error) from None
    finally:
        await engine.dispose()
    return [list(filter(_is_option, options)) for options in rows if isinstance(options, list)]


def _is_option(option: Any) -> bool:
    return isinstance(option, dict) and "name" in option and "value" in option
