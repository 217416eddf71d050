"""The plan that Postgres runs for a statement, and how much of the tables it reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from services.platform.data.db import Statement

Connection = psycopg.AsyncConnection[Any]
# Postgres plans a prepared statement's first runs for the actual values, and perhaps later runs for any values.
Mode = Literal["force_custom_plan", "force_generic_plan"]

_PLACEHOLDER = re.compile(r"%\((\w+)\)s|%%")
_EQUAL = re.compile(r" = | IS NULL|&&|@>")


@dataclass(frozen=True)
class Plan:
    """An executed plan."""

    nodes: list[dict[str, Any]]

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def rows(self) -> int:
        """Rows read from tables and indexes."""
        return sum(map(_rows, self.nodes))

    @property
    def blocks(self) -> int:
        """Blocks read of tables and indexes."""
        top = self.nodes[0]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    @property
    def read_whole(self) -> set[str]:
        """Tables read by a sequential scan."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def walked(self) -> set[str]:
        """Tables whose index was read without a key, from one end or from a given start."""
        return {
            node["Relation Name"]
            for node in self.nodes
            if node["Node Type"] in ("Index Scan", "Index Only Scan")
            and not _EQUAL.search(node.get("Index Cond", ""))
        }

    def __str__(self) -> str:
        scans = [
            f"{node['Node Type']} {node.get('Index Name', node.get('Relation Name'))}: {_rows(node)}"
            for node in self.nodes
            if node["Node Type"] in _OF_TABLES
        ]
        return f"{self.rows} rows, {self.blocks} blocks; " + ", ".join(scans)


_OF_TABLES = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan")


def _rows(node: dict[str, Any]) -> int:
    if node["Node Type"] not in _OF_TABLES:
        return 0
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    each: float = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
    loops: float = node["Actual Loops"]
    return round(each * loops)


async def explain(
    connection: Connection, statement: Statement, values: dict[str, Any], mode: Mode
) -> Plan:
    """Run the statement as the services do, then roll back."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = _PLACEHOLDER.sub(numbered, statement.sql.decode())
    given = statement.parameters(values)
    # Leave most parameter types "unknown", so that Postgres infers them as it does for psycopg.
    types = ", ".join(
        "interval" if isinstance(given[name], timedelta) else "unknown" for name in names
    )
    arguments = sql.SQL(", ").join(sql.Literal(given[name]) for name in names)
    async with connection.transaction(force_rollback=True):
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}".encode())
        await connection.execute(
            f"PREPARE explained {f'({types})' if types else ''} AS {text}".encode()
        )
        try:
            cursor = await connection.execute(
                sql.SQL("EXPLAIN (FORMAT JSON, ANALYZE, BUFFERS) EXECUTE explained {}").format(
                    sql.SQL("({})").format(arguments) if names else sql.SQL("")
                )
            )
            row = await cursor.fetchone()
        finally:
            await connection.execute("DEALLOCATE explained")
    assert row is not None
    return Plan(list(_nodes(row[0][0]["Plan"])))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
