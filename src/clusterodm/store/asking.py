# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is read from a database that somebody else works on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from clusterodm.core.tasks import ACTIVE
from clusterodm.store import schema
from clusterodm.store.database import down


async def ask_options(url: str) -> list[list[dict[str, Any]]]:
    """The options of all tasks that are not over; neither the database nor its schema is changed. Raises StoreDown."""
    engine = create_async_engine(url)
    asked = select(schema.tasks.c.options).where(schema.tasks.c.phase.in_([phase.value for phase in ACTIVE]))
    try:
        async with engine.connect() as connection:
            found = (await connection.execute(asked)).scalars().all()
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise down(error) from None
    finally:
        await engine.dispose()
    return [list(filter(_is_option, options)) for options in found if isinstance(options, list)]


def _is_option(option: Any) -> bool:
    return isinstance(option, dict) and "name" in option and "value" in option
