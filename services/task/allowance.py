"""How often the AI may be asked within an hour, by a person and for a workspace: counted for all processes together.

Every call takes the next number of its person or workspace, and the instant from which on it may be made: at once, or
when the call that many numbers before it is an hour ago. So the look at a limit costs the same however high it is, and
those that have to wait get their turn in order.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

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

from services.platform.config import Settings
from services.platform.db import Row, Statement, Transaction
from services.platform.errors import DomainError
from services.task.models import ai_calls
from taskflow.error.v1 import error_reason_pb2 as reasons

WINDOW = timedelta(hours=1)
# Nobody waits for a suggestion longer than this; the worker gives up after the same time.
LONGEST_WAIT = timedelta(hours=12)
_AT_ONCE = timedelta(0)

_key = bindparam("key", type_=Uuid)
_task_id = bindparam("task_id", type_=Uuid)
_text_revision = bindparam("text_revision", type_=BigInteger)
_window = literal(WINDOW, Interval)
# Not that of the transaction, which may have waited for its turn since it began.
_now = func.statement_timestamp()

_newest = select(func.max(ai_calls.c.number)).where(ai_calls.c.key == _key).scalar_subquery()
_next = select((func.coalesce(_newest, literal(0, BigInteger)) + 1).label("number")).subquery()
_limiting = ai_calls.alias()
_allowed_at = func.greatest(_now, _limiting.c.allowed_at + _window)
_NEXT = Statement(
    select(
        _next.c.number, _allowed_at.label("allowed_at"), (_allowed_at - _now).label("wait")
    ).select_from(
        _next.outerjoin(
            _limiting,
            (_limiting.c.key == _key)
            & (_limiting.c.number == _next.c.number - bindparam("most", type_=BigInteger)),
        )
    )
)
_TAKE = Statement(insert(ai_calls), ["key", "number", "allowed_at", "task_id", "text_revision"])
_KEPT = Statement(
    select((func.min(ai_calls.c.allowed_at) - _now).label("wait")).where(
        ai_calls.c.task_id == _task_id, ai_calls.c.text_revision == _text_revision
    )
)
_LOCK = Statement(select(func.pg_advisory_xact_lock(bindparam("number", type_=BigInteger))))


@dataclass(frozen=True)
class TaskText:
    """What a call is about: one revision of a task's text."""

    task_id: UUID
    revision: int


class Allowance:
    """The limits; its methods take part in the caller's transaction, best at its end: others wait until it commits."""

    def __init__(self, settings: Settings) -> None:
        self._per_user = settings.ai_calls_per_user
        self._per_workspace = settings.ai_calls_per_workspace

    async def spend(
        self, tx: Transaction, user_id: UUID, workspace_id: UUID, text: TaskText
    ) -> None:
        """Counts a call that somebody asks for. Raises AI_LIMIT_REACHED when there is none left."""
        for of, key, most, about in (
            ("user", user_id, self._per_user, None),
            ("workspace", workspace_id, self._per_workspace, text),
        ):
            if not most:
                continue
            await _lock(tx, key)
            call = await _next_call(tx, key, most)
            if call.wait:
                raise DomainError(
                    reasons.ERROR_REASON_AI_LIMIT_REACHED,
                    {"of": of, "limit": str(most)},
                    retry_after=call.wait.total_seconds(),
                )
            await _take(tx, key, call, about)

    async def wait(self, tx: Transaction, workspace_id: UUID, text: TaskText) -> timedelta:
        """How long a call has to wait that nobody asked for; counts it, and keeps its place, unless that was done."""
        if not self._per_workspace:
            return _AT_ONCE
        kept = await _kept(tx, text)
        if kept is None:
            await _lock(tx, workspace_id)
            # Two tries of the same worker may be under way.
            kept = await _kept(tx, text)
        if kept is None:
            call = await _next_call(tx, workspace_id, self._per_workspace)
            kept = call.wait
            if kept <= LONGEST_WAIT:
                await _take(tx, workspace_id, call, text)
        return max(kept, _AT_ONCE)


async def _kept(tx: Transaction, text: TaskText) -> timedelta | None:
    row = await tx.one(_KEPT, task_id=text.task_id, text_revision=text.revision)
    wait: timedelta | None = row.wait if row else None
    return wait


async def _next_call(tx: Transaction, key: UUID, most: int) -> Row:
    row: Row = await tx.one(_NEXT, key=key, most=most)
    return row


async def _take(tx: Transaction, key: UUID, call: Row, about: TaskText | None) -> None:
    await tx.run(
        _TAKE,
        key=key,
        number=call.number,
        allowed_at=call.allowed_at,
        task_id=about and about.task_id,
        text_revision=about and about.revision,
    )


async def _lock(tx: Transaction, key: UUID) -> None:
    """A person comes before a workspace, everywhere."""
    # The last 64 bits of a UUIDv7 are random but for two.
    await tx.one(_LOCK, number=int.from_bytes(key.bytes[8:], "big", signed=True))
