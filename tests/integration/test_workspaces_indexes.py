"""Promise: every list of workspaces and members is read off an index, in its order."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from services.auth import workspace_queries as queries
from services.platform.config import Settings
from services.platform.db import Statement, Transaction
from tests.integration.people import database

# 1,000 people, 40 workspaces of 500 members each.
_PEOPLE = Statement(
    text(
        "INSERT INTO auth.users (id, email, email_key, display_name, time_zone, password_hash)"
        " SELECT uuidv7(), n || '@crowd', n || '@crowd', 'n', 'UTC', ''"
        " FROM generate_series(1, 1000) n"
    )
)
_WORKSPACES = Statement(
    text(
        "INSERT INTO auth.workspaces (id, display_name, ai_enabled)"
        " SELECT uuidv7(), 'crowd', false FROM generate_series(1, 40)"
    )
)
_MEMBERS = Statement(
    text(
        "INSERT INTO auth.members (workspace_id, user_id, role, revision, created_at)"
        " SELECT w.id, u.id, 1, 1, clock_timestamp() FROM auth.workspaces w, auth.users u"
        " WHERE w.display_name = 'crowd' AND u.email LIKE '%@crowd' AND random() < 0.5"
    )
)
_ANALYZE = [Statement(text(f"ANALYZE auth.{name}")) for name in ("users", "workspaces", "members")]
_ONE = Statement(text("SELECT workspace_id, user_id, created_at FROM auth.members LIMIT 1"))


class _RollBack(Exception):
    pass


@pytest.fixture
async def crowd(settings: Settings) -> AsyncIterator[Transaction]:
    """A transaction that sees a crowd, and that is rolled back."""
    async with database(settings) as db:
        with suppress(_RollBack):
            async with db.transaction() as tx:
                for statement in (_PEOPLE, _WORKSPACES, _MEMBERS, *_ANALYZE):
                    await tx.run(statement)
                yield tx
                raise _RollBack


async def _plan(tx: Transaction, statement: Statement, **values: object) -> str:
    explained = Statement(text("SELECT 1"))
    explained.sql = b"EXPLAIN " + statement.sql
    explained.values = statement.values
    return "\n".join(row[0] for row in await tx.all(explained, **values))


async def test_lists_use_an_index_for_their_scope_and_order(crowd: Transaction) -> None:
    one = await crowd.one(_ONE)
    assert one is not None
    mine = {"caller_id": one.user_id, "session_id": uuid7(), "count": 51}
    theirs = {"workspace_id": one.workspace_id, "count": 51}
    after = {"after_time": one.created_at, "after_user": one.user_id}
    plans = {
        "first workspaces": await _plan(crowd, queries.FIRST_WORKSPACES, **mine),
        "next workspaces": await _plan(
            crowd, queries.NEXT_WORKSPACES, after=one.workspace_id, **mine
        ),
        "first members": await _plan(crowd, queries.FIRST_MEMBERS, **theirs),
        "next members": await _plan(crowd, queries.NEXT_MEMBERS, **theirs, **after),
    }
    for name, plan in plans.items():
        index = "members_user" if "workspaces" in name else "members_joined"
        assert index in plan, f"{name}\n{plan}"
        assert "Seq Scan on members" not in plan, f"{name}\n{plan}"
    for name in ("first members", "next members"):
        assert "Sort" not in plans[name], f"{name}\n{plans[name]}"
