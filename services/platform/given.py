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
    """The rows of the parameter :given, with these columns."""
    array = cast(bindparam("given", type_=Text), JSON)
    rows = func.json_to_recordset(array).table_valued(
        *(column(name, kind) for name, kind in columns.items()), name="given"
    )
    return select(rows.render_derived(with_types=True)).cte("given")


def as_given(rows: Iterable[Mapping[str, Any]]) -> str:
    """The parameter. A column that a row leaves out is null in it."""
    return json.dumps(list(rows), ensure_ascii=False, allow_nan=False, default=_text)


def _text(value: UUID | datetime | date | bytes) -> str:
    """As Postgres reads it."""
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
