"""Rows that a statement is given, any number of them in one parameter: a JSON array of objects.

It takes Postgres less than as many statements, and psycopg less than arrays of each column.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Text, bindparam, cast, column, func, select
from sqlalchemy.sql.expression import CTE
from sqlalchemy.types import TypeEngine


def given(columns: Mapping[str, TypeEngine[Any]]) -> CTE:
    """The rows of the parameter :given, with these columns; those to be joined with tables have a number `n`."""
    array = cast(bindparam("given", type_=Text), JSON)
    rows = func.json_to_recordset(array).table_valued(
        *(column(name, kind) for name, kind in columns.items()), name="given"
    )
    rows = rows.render_derived(with_types=True)
    every = select(rows)
    if "n" in rows.c:
        # Holds for all. Postgres takes 100 rows for granted, for which it would rather read a table of some thousand
        # rows whole than find a few of them; this it takes to hold for one.
        every = every.where(rows.c.n + 0 == rows.c.n)
    return every.cte("given")


def as_given(rows: Iterable[Mapping[str, Any]]) -> str:
    """The parameter. A column that a row leaves out is null in it."""
    return json.dumps(list(rows), ensure_ascii=False, allow_nan=False, default=_text)


def _text(value: UUID | datetime | date | bytes) -> str:
    """As Postgres reads it."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
