"""A WatchTasks client that learns of a workspace's tasks only from its stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import WatchTasksRequest
from tests.faults.harness.world import World

# Pause before reopening a stream (seconds).
_PAUSE = 0.2


@dataclass
class Board:
    """Task ids with revisions as the stream showed them, and what happened to the stream."""

    tasks: dict[str, int] = field(default_factory=dict)
    resets: int = 0
    # How often this board's stream ended with an error.
    interruptions: int = 0
    # Changes whose predecessor of the same task is missing.
    holes: int = 0

    def change(self, task: Task) -> None:
        """Apply a change, which may be a repeat."""
        known = self.tasks.get(task.id, 0)
        self.holes += task.revision > known + 1
        self.tasks[task.id] = max(known, task.revision)


@asynccontextmanager
async def a_board(world: World) -> AsyncIterator[Board]:
    """A board of the first workspace for its owner, updated while the block runs."""
    board = Board()
    following = asyncio.create_task(_follow(world, board))
    try:
        yield board
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def revisions(world: World) -> dict[str, int]:
    """The task revisions that a board should show."""
    rows = await world.fetch(
        "SELECT id::text, revision FROM task.tasks"
        " WHERE workspace_id = %(workspace)s AND deleted_at IS NULL",
        {"workspace": world.workspace.id},
    )
    return dict(rows)


async def _follow(world: World, board: Board) -> None:
    """Follow the stream as a client does: from the last cursor, or from a snapshot after a reset."""
    cursor = ""
    while True:
        call = world.stubs.tasks.WatchTasks(
            WatchTasksRequest(workspace_id=world.workspace.id, cursor=cursor, snapshot=not cursor),
            metadata=world.people[0].credentials,
        )
        complete = bool(cursor)
        if not cursor:
            board.tasks.clear()
        try:
            async for message in call:
                match message.WhichOneof("kind"):
                    case "reset":
                        board.resets += 1
                        cursor = ""
                        break
                    case "snapshot":
                        board.tasks[message.snapshot.id] = message.snapshot.revision
                    case "snapshot_complete":
                        complete = True
                    case "change":
                        board.change(message.change.task)
                # Keep no cursor before the snapshot is complete: cursors within a snapshot point past all of it.
                if complete:
                    cursor = message.cursor
        except grpc.aio.AioRpcError:
            board.interruptions += 1
            await asyncio.sleep(_PAUSE)
        finally:
            call.cancel()
