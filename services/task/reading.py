"""Reading tasks one by one: those that are asked for at the same time are read together (docs/adr/0011)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.platform import directory
from services.platform.batching import Batcher
from services.platform.db import Database, Row
from services.platform.errors import invalid
from services.platform.given import as_given
from services.platform.identity import Caller
from services.task import queries

# Of them at once. Two reads side by side would only be two smaller ones.
_SIZE = 64
_RUNS = 1


@dataclass(frozen=True, slots=True)
class _Wish:
    caller: Caller
    task_id: UUID


class Reading:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._together = Batcher[_Wish, Row | None](self._read, size=_SIZE, runs=_RUNS)

    async def get(self, caller: Caller, name: str, workspace_id: str) -> Row:
        """The task with this id, or this key ("OPS-12") in the workspace.

        Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, and INVALID_REQUEST for a key without a workspace.
        """
        if _is_key(name):
            row = await self._get_by_key(caller, name, workspace_id)
        else:
            row = await self._together(_Wish(caller, UUID(name)))
        if row is None or (workspace_id and row.workspace_id != UUID(workspace_id)):
            async with self._db.read() as tx:
                raise await directory.absence(tx, caller, "task", name)
        directory.check_role(caller, row.role)
        return row

    async def _read(self, wishes: Sequence[_Wish]) -> list[Row | None]:
        wanted = as_given(
            {
                "n": n,
                "task_id": wish.task_id,
                "caller_id": wish.caller.user_id,
                "session_id": wish.caller.session_id,
            }
            for n, wish in enumerate(wishes)
        )
        async with self._db.read() as tx:
            found = {row.n: row for row in await tx.all(queries.GET_TASKS, given=wanted)}
        return [found.get(n) for n in range(len(wishes))]

    async def _get_by_key(self, caller: Caller, name: str, workspace_id: str) -> Row | None:
        if not workspace_id:
            raise invalid("workspace_id", "is required with a key")
        key, _, number = name.partition("-")
        async with self._db.read() as tx:
            return await tx.one(
                queries.GET_TASK_BY_KEY,
                workspace_id=UUID(workspace_id),
                key=key,
                number=int(number),
                caller_id=caller.user_id,
                session_id=caller.session_id,
            )


def _is_key(name: str) -> bool:
    """Of a well-formed name, which is an id otherwise."""
    return len(name) < len(str(UUID(int=0)))
