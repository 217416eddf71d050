"""Statements on the rate limit of AI calls (ai_rate_limit.py)."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Interval,
    Uuid,
    bindparam,
    func,
    insert,
    literal,
    select,
)

from services.platform.data.db import Statement
from services.task.suggestions.models import ai_calls

WINDOW = timedelta(hours=1)


class Slot(NamedTuple):
    """The next AI call of a user or workspace. `wait` is the time until `allowed_at`."""

    number: int
    allowed_at: datetime
    wait: timedelta


class Reserved(NamedTuple):
    """The time until the slot reserved for a task's text, negative once it has passed; None without a slot."""

    wait: timedelta | None


class Lock(NamedTuple):
    locked: None


_key = bindparam("key", type_=Uuid)
_number = bindparam("number", type_=BigInteger)
# The time of the statement. The transaction may have started earlier and then waited for the lock.
_now = func.statement_timestamp()

_last = select(func.max(ai_calls.c.number)).where(ai_calls.c.key == _key).scalar_subquery()
_next = select((func.coalesce(_last, literal(0, BigInteger)) + 1).label("number")).subquery()
_before = ai_calls.alias()
_allowed_at = func.greatest(_now, _before.c.allowed_at + literal(WINDOW, Interval))
NEXT_SLOT = Statement(
    select(
        _next.c.number, _allowed_at.label("allowed_at"), (_allowed_at - _now).label("wait")
    ).select_from(
        _next.outerjoin(
            _before,
            (_before.c.key == _key)
            & (_before.c.number == _next.c.number - bindparam("most", type_=BigInteger)),
        )
    ),
    row=Slot,
)
TAKE = Statement(insert(ai_calls), ["key", "number", "allowed_at", "task_id", "text_revision"])
RESERVED_SLOT = Statement(
    select((func.min(ai_calls.c.allowed_at) - _now).label("wait")).where(
        ai_calls.c.task_id == bindparam("task_id", type_=Uuid),
        ai_calls.c.text_revision == bindparam("text_revision", type_=BigInteger),
    ),
    row=Reserved,
)
LOCK = Statement(select(func.pg_advisory_xact_lock(_number).label("locked")), row=Lock)
