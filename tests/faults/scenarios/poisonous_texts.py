"""One workspace writes texts designed to be slow to read, while another one waits for its suggestions."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from taskflow.task.v1 import job_pb2
from taskflow.task.v1.job_service_pb2 import ListJobsRequest
from taskflow.task.v1.suggestion_service_pb2 import ListSuggestionsRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Workspace, World, a_world

PROMISE = "A poisonous text costs its own task only"
LIMIT_SECONDS = {"short": 150.0, "long": 1800.0}

# The maximum length of a description (characters).
_LONGEST: Final = 20_000
# Seconds between checks for a suggestion, and the longest wait for one.
_LOOK: Final = 0.1
_PATIENCE: Final = 100.0
# How many times longer than alone the neighbour may wait. Both include the debounce of two seconds.
_MOST: Final = 2.0

# Each fills a description with text on which a careless pattern or algorithm takes quadratic time.
_SHAPES: Final[tuple[Callable[[int], str], ...]] = (
    lambda n: "a" + " " * (n - 2) + "b",
    lambda n: "```\n" + "\n" * (n - 5) + "x",
    lambda n: "x:" + " " * (n - 3) + ";",
    lambda n: ("a:" + " " * 60) * (n // 62),
    lambda n: "a" + "\u0301\u0323" * ((n - 1) // 2),
    lambda n: "https://" * (n // 8),
    lambda n: '"a' * (n // 2),
    lambda n: "not so very " * (n // 12),
)


async def run(run: Run, tally: Tally) -> None:
    rounds, poisons = run.choose(1, 10), 20
    alone, beside = [], []
    async with a_world(run, workspaces=2, ai=True) as world:
        attacker, neighbour = world.workspaces
        for number in range(rounds):
            alone += await _quiet_tasks(run, world, neighbour)
            texts = [_text(run, index) for index in range(poisons)]
            poisoned = [await _create(world, attacker, "Tidy up", text) for text in texts]
            tally.faults += poisons
            beside += await _quiet_tasks(run, world, neighbour)
            tally.lost += await _unanswered(world, attacker, poisoned)
            run.say(f"round {number + 1} of {rounds}")
    tally.operations = len(alone) + len(beside) + tally.faults
    before, meanwhile = max(alone), max(beside)
    tally.recovered_after(meanwhile)
    tally.expect_speed(
        meanwhile <= _MOST * before,
        f"a neighbour's suggestion took {meanwhile:.1f} s beside poisonous texts",
    )
    tally.figures["the neighbour's slowest suggestion"] = (
        f"{before:.2f} s alone, {meanwhile:.2f} s beside {poisons} poisonous texts"
    )


def _text(run: Run, index: int) -> str:
    """A hostile text. The shape that once stopped the worker comes first and most often."""
    shape = _SHAPES[0] if index < 10 else run.random.choice(_SHAPES)
    return shape(_LONGEST)


async def _quiet_tasks(run: Run, world: World, workspace: Workspace) -> list[float]:
    """Create a few tasks; returns the seconds until each has its suggestion."""
    return await asyncio.gather(*(_suggested(world, workspace) for _ in range(run.choose(3, 10))))


async def _suggested(world: World, workspace: Workspace) -> float:
    started = time.monotonic()
    task_id = await _create(world, workspace, "Mend the pump as soon as possible", "")
    async with asyncio.timeout(_PATIENCE):
        while not await _has_suggestion(world, workspace, task_id):
            await asyncio.sleep(_LOOK)
    return time.monotonic() - started


async def _create(world: World, workspace: Workspace, title: str, description: str) -> str:
    task = await world.stubs.tasks.CreateTask(
        CreateTaskRequest(
            project_id=workspace.projects[0], task=Task(title=title, description=description)
        ),
        metadata=workspace.owner.credentials,
    )
    return task.task.id


async def _has_suggestion(world: World, workspace: Workspace, task_id: str) -> bool:
    listed = await world.stubs.suggestions.ListSuggestions(
        ListSuggestionsRequest(workspace_id=workspace.id, task_id=task_id),
        metadata=workspace.owner.credentials,
    )
    return bool(listed.suggestions)


async def _has_failed(world: World, workspace: Workspace, task_id: str) -> bool:
    listed = await world.stubs.jobs.ListJobs(
        ListJobsRequest(
            workspace_id=workspace.id, task_id=task_id, states=[job_pb2.JOB_STATE_FAILED]
        ),
        metadata=workspace.owner.credentials,
    )
    return bool(listed.jobs)


async def _unanswered(world: World, workspace: Workspace, task_ids: list[str]) -> int:
    """The number of tasks with neither a suggestion nor a failed job when the time is over."""
    waiting = set(task_ids)
    give_up = time.monotonic() + _PATIENCE
    while waiting and time.monotonic() < give_up:
        for task_id in list(waiting):
            if await _has_suggestion(world, workspace, task_id) or await _has_failed(
                world, workspace, task_id
            ):
                waiting.discard(task_id)
        await asyncio.sleep(_LOOK)
    return len(waiting)
