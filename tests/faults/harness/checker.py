"""Compares the answers that clients got with the stored state.

Several people change the same task at once, so its final state is one of a set: the result of any operation that no
acknowledged one certainly followed. An operation of unknown outcome may take effect until its server times it out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from services.platform.config import Settings
from tests.faults.harness.oplog import Operation
from tests.faults.harness.scenario import Tally
from tests.faults.harness.world import fetch

# Seconds after which an abandoned call has certainly ended: `max_call_seconds` plus a margin.
_STRAGGLES = 35.0


@dataclass(frozen=True)
class Kept:
    """A task as stored in the database."""

    title: str
    deleted: bool
    revision: int


@dataclass
class Difference:
    """Broken promises, as sentences for the reader of the report."""

    lost: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    # Writes that the server refused and that took effect nevertheless.
    slipped_in: list[str] = field(default_factory=list)


def compare(
    operations: Iterable[Operation], tasks: Mapping[str, Kept], read: set[str]
) -> Difference:
    """Compare the log with `tasks` (all of the workspace, by id) and `read`, the notifications marked as read."""
    difference = Difference()
    done = list(operations)
    by_task = _by_task(done)
    _compare_creates(done, tasks, difference)
    for task_id, history in by_task.items():
        kept = tasks.get(task_id)
        if kept is not None:
            _compare_task(task_id, kept, history, difference)
    for operation in done:
        if operation.op == "mark read" and operation.outcome == "ok":
            unread = [one for one in operation.facts["ids"] if one not in read]
            difference.resurrected += [f"notification {one} is unread again" for one in unread]
    return difference


async def check(
    settings: Settings, workspace_id: str, operations: Iterable[Operation], tally: Tally
) -> None:
    """Compare with the database and add the findings to the tally; resurrected objects count as lost."""
    rows = await fetch(
        settings,
        "SELECT id, title, deleted_at IS NOT NULL, revision FROM task.tasks"
        " WHERE workspace_id = %(workspace)s",
        {"workspace": workspace_id},
    )
    read = await fetch(
        settings,
        "SELECT id FROM notification.notifications"
        " WHERE workspace_id = %(workspace)s AND read_at IS NOT NULL",
        {"workspace": workspace_id},
    )
    tasks = {str(task_id): Kept(*facts) for task_id, *facts in rows}
    found = compare(operations, tasks, {str(row[0]) for row in read})
    tally.lost += len(found.lost) + len(found.resurrected)
    tally.doubled += len(found.doubled)
    for sentence in (*found.lost[:5], *found.resurrected[:5], *found.doubled[:5]):
        tally.broken.append(sentence)
    tally.expect(not found.slipped_in, "; ".join(found.slipped_in[:5]))
    tally.figures["kept"] = f"{len(tasks):,} tasks, {len(read):,} notifications read"


def _by_task(operations: list[Operation]) -> dict[str, list[Operation]]:
    """Operations by task. The task of a create is known only if it was acknowledged."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if task_id := operation.facts.get("task"):
            found[task_id].append(operation)
    return found


def _compare_creates(
    operations: list[Operation], tasks: Mapping[str, Kept], difference: Difference
) -> None:
    creates = [operation for operation in operations if operation.op == "create"]
    titles: dict[str, int] = defaultdict(int)
    for kept in tasks.values():
        titles[kept.title] += 1
    for create in creates:
        title: str = create.facts["title"]
        if create.outcome == "ok" and create.facts["task"] not in tasks:
            difference.lost.append(f"{title} was created and isn't there")
        if create.outcome == "failed" and title in titles:
            difference.slipped_in.append(f"{title} was refused ({create.code}) and is there")
    difference.doubled += [f"{title} is there {n} times" for title, n in titles.items() if n > 1]
    acknowledged = sum(create.outcome == "ok" for create in creates)
    unknown = sum(create.outcome == "unknown" for create in creates)
    if len(tasks) > acknowledged + unknown:
        difference.doubled.append(f"{len(tasks)} tasks came of {acknowledged + unknown} creates")


def _compare_task(
    task_id: str, kept: Kept, history: list[Operation], difference: Difference
) -> None:
    titled = [one for one in history if one.op in ("create", "update")]
    possible = {one.facts["title"] for one in _last(titled)}
    if kept.title not in possible:
        refused = [one for one in titled if one.facts["title"] == kept.title]
        if refused and refused[0].outcome == "failed":
            difference.slipped_in.append(f"{task_id}: a refused update is there")
        else:
            difference.lost.append(f"{task_id} has the title {kept.title!r}, not {possible}")
    alive = [one for one in history if one.op in ("create", "delete", "undelete")]
    possible_states = {one.op == "delete" for one in _last(alive)}
    if kept.deleted not in possible_states:
        said = f"{task_id} was {'brought back' if kept.deleted else 'deleted'}, and isn't"
        (difference.lost if kept.deleted else difference.resurrected).append(said)
    changes = [one for one in history if one.op != "create"]
    least = 1 + sum(one.outcome == "ok" for one in changes)
    most = least + sum(one.outcome == "unknown" for one in changes)
    if kept.revision < least:
        difference.lost.append(f"{task_id}: revision {kept.revision} after {least - 1} changes")
    if kept.revision > most:
        difference.doubled.append(f"{task_id}: revision {kept.revision} of {most} at most")


def _last(operations: list[Operation]) -> list[Operation]:
    """The operations that may have been the last to take effect."""
    begun = [one.begun for one in operations if one.outcome == "ok"]
    newest = max(begun, default=float("-inf"))
    return [one for one in operations if one.outcome != "failed" and newest <= _latest(one)]


def _latest(operation: Operation) -> float:
    """The latest instant at which the operation may have taken effect."""
    if operation.ended is None:
        return float("inf")
    return operation.ended + (_STRAGGLES if operation.outcome == "unknown" else 0.0)


def longest_gap(operations: Iterable[Operation]) -> float:
    """The longest time (seconds) without an acknowledgement."""
    ends = sorted(one.ended for one in operations if one.outcome == "ok" and one.ended is not None)
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    return max(gaps, default=0.0)
