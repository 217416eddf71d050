"""Reading tasks one by one."""

from uuid import UUID

from services.platform import directory
from services.platform.db import Row, Transaction
from services.platform.errors import invalid
from services.platform.identity import Caller
from services.task import queries

_ID_LENGTH = len(str(UUID(int=0)))


async def get(tx: Transaction, caller: Caller, name: str, workspace_id: str) -> Row:
    """The task with this id, or this key ("OPS-12") in the workspace.

    Raises SESSION_REVOKED, NOT_FOUND, ROLE_TOO_LOW, and INVALID_REQUEST for a key without a workspace.
    """
    who = {"caller_id": caller.user_id, "session_id": caller.session_id}
    if _is_key(name):
        if not workspace_id:
            raise invalid("workspace_id", "is required with a key")
        key, _, number = name.partition("-")
        row = await tx.one(
            queries.GET_TASK_BY_KEY,
            workspace_id=UUID(workspace_id),
            key=key,
            number=int(number),
            **who,
        )
    else:
        row = await tx.one(queries.GET_TASK, task_id=UUID(name), **who)
    if row is None or (workspace_id and row.workspace_id != UUID(workspace_id)):
        raise await directory.absence(tx, caller, "task", name)
    directory.check_role(caller, row.role)
    return row


def _is_key(name: str) -> bool:
    """Of a well-formed name, which is an id otherwise."""
    return len(name) < _ID_LENGTH
