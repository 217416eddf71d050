"""The rate limit of AI calls: per user and per workspace within an hour, shared by all processes.

Each call gets its user's or workspace's next number, and a time from which it is allowed: now, or an hour after the
call `limit` numbers before it. So a check costs the same for any limit, and waiting calls keep their order.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from services.platform.config import Settings
from services.platform.data.db import Transaction
from services.platform.rpc.errors import DomainError
from services.task.suggestions import ai_rate_limit_queries as queries
from services.task.suggestions.ai_rate_limit_queries import Slot
from taskflow.error.v1 import error_reason_pb2 as reasons

# Longest wait for which a slot is reserved. The worker gives up after the same time.
LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class TaskText:
    """The revision of a task's text for which a worker calls the AI."""

    task_id: UUID
    revision: int


class AiRateLimit:
    """Counts AI calls. Both methods lock the limit until the caller's transaction ends, so call them last in it."""

    def __init__(self, settings: Settings) -> None:
        self._per_user = settings.ai_calls_per_user
        self._per_workspace = settings.ai_calls_per_workspace

    async def charge(
        self, tx: Transaction, user_id: UUID, workspace_id: UUID, text: TaskText
    ) -> None:
        """Counts an AI call that a user requested, for the user and the workspace. Raises AI_LIMIT_REACHED."""
        # Locks the user's limit before the workspace's, so that two calls can't deadlock.
        for of, key, most, about in (
            ("user", user_id, self._per_user, None),
            ("workspace", workspace_id, self._per_workspace, text),
        ):
            if not most:
                continue
            await _lock(tx, key)
            slot = await _next_slot(tx, key, most)
            if slot.wait:
                raise DomainError(
                    reasons.ERROR_REASON_AI_LIMIT_REACHED,
                    {"of": of, "limit": str(most)},
                    retry_after=slot.wait.total_seconds(),
                )
            await _take(tx, key, slot, about)

    async def reserve(self, tx: Transaction, workspace_id: UUID, text: TaskText) -> timedelta:
        """Reserves the workspace's next slot for an automatic AI call and returns the wait until that slot.

        A repeated call for the same text keeps its slot. If the wait exceeds LONGEST_WAIT, no slot is reserved.
        """
        if not self._per_workspace:
            return timedelta(0)
        wait = await _reserved(tx, text)
        if wait is None:
            await _lock(tx, workspace_id)
            # Looks again under the lock: two attempts of the same worker may overlap.
            wait = await _reserved(tx, text)
        if wait is None:
            slot = await _next_slot(tx, workspace_id, self._per_workspace)
            wait = slot.wait
            if wait <= LONGEST_WAIT:
                await _take(tx, workspace_id, slot, text)
        return max(wait, timedelta(0))


async def _reserved(tx: Transaction, text: TaskText) -> timedelta | None:
    row = await tx.one(queries.RESERVED_SLOT, task_id=text.task_id, text_revision=text.revision)
    return row and row.wait


async def _next_slot(tx: Transaction, key: UUID, most: int) -> Slot:
    slot = await tx.one(queries.NEXT_SLOT, key=key, most=most)
    assert slot is not None
    return slot


async def _take(tx: Transaction, key: UUID, slot: Slot, about: TaskText | None) -> None:
    await tx.run(
        queries.TAKE,
        key=key,
        number=slot.number,
        allowed_at=slot.allowed_at,
        task_id=about and about.task_id,
        text_revision=about and about.revision,
    )


async def _lock(tx: Transaction, key: UUID) -> None:
    # The lock's number is the second half of the UUIDv7 key: 62 of its 64 bits are random.
    await tx.run(queries.LOCK, number=int.from_bytes(key.bytes[8:], "big", signed=True))
