"""Deletes the notifications that removed members have of the workspace: in small batches, after the removal.

The removal itself writes a row of `former_members`, and the rest follows from that row, whichever process is killed.
Until they are deleted, these notifications are neither listed nor mailed (queries.hidden), also if the user becomes a
member again.
"""

from uuid import UUID

from services.notification.inbox import former_member_queries as queries
from services.notification.inbox import queries as inbox_queries
from services.notification.inbox.former_member_queries import FeedEntry, FormerMember
from services.notification.stream import logic as stream
from services.platform.background import work_off
from services.platform.data.db import Transaction
from services.platform.runtime import Platform
from taskflow.notification.v1.notification_pb2 import NotificationChange, NotificationsRemoved

# Seconds between looks for former members.
_LOOK_INTERVAL = 0.5
# Former members who take turns.
_MOST = 100
# Notifications of a user, of all workspaces, that one transaction looks at.
_BATCH = 500
# Pause after the batches of all former members (seconds), which leaves the disk to others.
_PAUSE = 0.05


async def begin(tx: Transaction, workspace_id: UUID, user_id: UUID, actor_id: UUID) -> None:
    """The same transaction has deleted the membership: new notifications are for members only."""
    await tx.run(queries.ADD, workspace_id=workspace_id, user_id=user_id)


async def run(platform: Platform) -> None:
    """Runs for ever; any number of processes share the work."""

    async def step() -> float:
        return _PAUSE if await run_once(platform) else 0

    await work_off("notifications of former members", step, _LOOK_INTERVAL)


async def run_once(platform: Platform) -> bool:
    """One transaction for each former member; returns whether any of them deleted something or moved on."""
    async with platform.db.read() as tx:
        members = await tx.all(queries.ALL, limit=_MOST)
    moved = False
    for member in members:
        async with platform.db.transaction() as tx:
            locked = await tx.one(
                queries.TRY_LOCK, workspace_id=member.workspace_id, user_id=member.user_id
            )
            if locked is not None:
                moved |= await _delete_batch(tx, locked)
    return moved


async def _delete_batch(tx: Transaction, member: FormerMember) -> bool:
    key = {"workspace_id": member.workspace_id, "user_id": member.user_id}
    # Whoever changes notifications locks their feed first.
    await tx.run(queries.LOCK_FEED, user_id=member.user_id)
    entries = await tx.all(
        queries.NEXT_ENTRIES,
        user_id=member.user_id,
        after=member.done_to,
        up_to=member.up_to,
        count=_BATCH,
    )
    if not entries:
        if not await tx.run(queries.EXTEND, settled=queries.SETTLED, **key):
            await tx.run(queries.DELETE, settled=queries.SETTLED, **key)
        return False
    await _delete(
        tx, member.user_id, [each for each in entries if each.workspace_id == member.workspace_id]
    )
    await tx.run(queries.SET_DONE, done=entries[-1].sequence, **key)
    return True


async def _delete(tx: Transaction, user_id: UUID, entries: list[FeedEntry]) -> None:
    """Deletes notifications. Open streams get a change that removes them, and resumed streams never get them."""
    if not entries:
        return
    await tx.run_many(
        queries.REPLACE_CHANGE,
        [
            {
                "of_user": user_id,
                "at": entry.sequence,
                "new_payload": _removed(entry, sequence=entry.sequence).SerializeToString(),
            }
            for entry in entries
        ],
    )
    await stream.append_for_users(tx, {user_id: _removed(*entries)})
    await tx.run(inbox_queries.DELETE, ids=[entry.id for entry in entries])


def _removed(*entries: FeedEntry, sequence: int = 0) -> NotificationChange:
    ids = sorted(str(entry.id) for entry in entries)
    return NotificationChange(sequence=sequence, removed=NotificationsRemoved(ids=ids))
