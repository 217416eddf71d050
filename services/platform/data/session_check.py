"""Whether a database address gives our connections what they rely on. A connection pooler can silently take it away."""

from collections.abc import Mapping
from typing import Any

import psycopg

from services.platform.data.db import Database


class UnsuitableDatabase(Exception):
    """Raised for a database address that can't keep our promises. The text is a sentence for operators."""


async def check_options(db: Database) -> None:
    """Raises UnsuitableDatabase when the options of our connections have no effect."""
    async with db.raw() as connection:
        cursor = await connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(db.options),)
        )
        found = {row.name: row.setting for row in await cursor.fetchall()}
    if lost := lost_options(db.options, found):
        raise UnsuitableDatabase(
            f"TASKFLOW_DATABASE_URL leads to a connection pooler that drops {', '.join(lost)}: "
            "set them for the account with ALTER ROLE, as docs/deploying.md shows."
        )


def lost_options(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """The names of the options whose value isn't the wanted one."""
    return [name for name, value in wanted.items() if found.get(name, "").lower() != value.lower()]


async def check_own_session(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raises UnsuitableDatabase when a pooler shares the connection's session, in which a lock would lock nothing.

    A pooler tells clients another process id than the one of the session.
    """
    cursor = await connection.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        raise UnsuitableDatabase(
            "The relay's address leads to a connection pooler, where its lock would lock nothing: "
            "set TASKFLOW_DATABASE_DIRECT_URL to the address of PostgreSQL itself."
        )
