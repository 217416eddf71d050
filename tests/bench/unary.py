"""P1, P2 and P3: calls to one task process, without the gateway.

Only Postgres (fsync on), NATS, the auth process (for its keys) and that task process run. P4, P5, P7 and P8 measure
what follows from the events.
"""

import base64
from statistics import median
from typing import Any

import grpc.aio

from services.platform.config import Settings
from services.platform.rpc import pages
from services.platform.rpc.seal import Seal
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest, GetTaskRequest, ListTasksRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.bench import dataset
from tests.bench.dataset import LARGE, SMALL, SMALL_PROJECT, WORKSPACES, Dataset, name_id
from tests.bench.processes import echoing, load
from tests.bench.rows import ROUNDS, Bench, Result, compared
from tests.bench.stacks import CALLS
from tests.conftest import superuser

# Concurrent calls, and the number of load processes that make them.
IN_FLIGHT = 64
CLIENTS = 2
_WARM_UP = 0.5
_SECONDS = 3.0
# Callers, and the projects they work in, per 100,000 tasks.
_CALLERS = 20
_PROJECTS = 10

PAGE = 50
_LIST_SECONDS = 1.5
_DEPTHS = (0.1, 0.5, 0.9)


async def creates(bench: Bench) -> Result:
    """Measures P1: creates per second."""
    stacks = await bench.stacks.need(small=CALLS)
    settings = stacks["small"].settings
    spec = creating(settings, bench.small)
    sample = await _sample_create(settings, spec)
    return await _against_echo(bench, settings, spec, {"create": sample}, least=0.25)


async def gets(bench: Bench) -> Result:
    """Measures P2: GetTask calls per second."""
    stacks = await bench.stacks.need(small=CALLS)
    settings = stacks["small"].settings
    rows = await dataset.execute(
        superuser(settings), "SELECT id FROM task.tasks TABLESAMPLE SYSTEM (10) LIMIT 2000"
    )
    spec = {
        **_calling(settings, bench.small),
        "call": "get",
        "tasks": [str(row[0]) for row in rows],
    }
    sample = await _sample_get(settings, spec)
    return await _against_echo(bench, settings, spec, {"get": sample}, least=0.35)


async def lists(bench: Bench) -> Result:
    """P3: the slowest of four kinds of pages in a workspace of 1,000,000 tasks, against a workspace of 1,000."""
    stacks = await bench.stacks.need(large=CALLS)
    settings = stacks["large"].settings
    token = bench.large.tokens(settings, [1])
    specs = {
        name: listing(settings, token, requests)
        for name, requests in (await _pages(settings, bench.large)).items()
    }
    p50: dict[str, list[float]] = {name: [] for name in specs}
    for number in range(ROUNDS):
        for name, spec in specs.items():
            bench.say(f"round {number + 1}: {name}")
            [found] = await load(spec)
            p50[name].append(median(found["milliseconds"]))
    floors = p50.pop("1,000 tasks")
    slowest = max(p50, key=lambda name: median(p50[name]))
    result = compared(p50[slowest], floors, "ms p50", most=1.3)
    result.details.update({name: median(values) for name, values in p50.items()}, slowest=slowest)
    return result


async def growth(bench: Bench) -> tuple[list[float], list[float]]:
    """P9: creates per second with ten times the tasks, users and projects, alternating with the base."""
    stacks = await bench.stacks.need(small=CALLS, large=CALLS)
    specs = [
        creating(stacks[name].settings, place, scale)
        for name, place, scale in (("large", bench.large, 10), ("small", bench.small, 1))
    ]
    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        for found, spec in zip(rates, specs, strict=True):
            bench.say(f"round {number + 1}: creates")
            found.append(await rate(spec, spec["address"]))
    for stack in stacks.values():
        await dataset.forget_events(superuser(stack.settings))
    return rates


def listing(settings: Settings, tokens: list[str], requests: list[str]) -> dict[str, Any]:
    return {
        "kind": "calls",
        "call": "list",
        "address": settings.task,
        "tokens": tokens,
        "requests": requests,
        "in_flight": 1,
        "warm_up": 0.5,
        "seconds": _LIST_SECONDS,
    }


def creating(settings: Settings, found: Dataset, scale: int = 1) -> dict[str, Any]:
    return {
        **_calling(settings, found, scale),
        "call": "create",
        "projects": found.projects[: _PROJECTS * scale],
    }


def _calling(settings: Settings, found: Dataset, scale: int = 1) -> dict[str, Any]:
    return {
        "kind": "calls",
        "address": settings.task,
        "tokens": found.tokens(settings, range(_CALLERS * scale)),
        "in_flight": IN_FLIGHT // CLIENTS,
        "warm_up": _WARM_UP,
        "seconds": _SECONDS,
    }


async def _against_echo(
    bench: Bench, settings: Settings, spec: dict[str, Any], answers: dict[str, str], *, least: float
) -> Result:
    rates, floors = [], []
    async with echoing({"address": bench.echo, **answers}):
        for number in range(ROUNDS):
            bench.say(f"round {number + 1}: the service")
            rates.append(await rate(spec, settings.task))
            bench.say(f"round {number + 1}: echo")
            floors.append(await rate(spec, bench.echo))
    await dataset.forget_events(superuser(settings))
    return compared(rates, floors, "calls/s", least=least)


async def rate(spec: dict[str, Any], address: str) -> float:
    """Calls per second of all load processes together. Each process numbers its calls from a different start."""
    found = await load(
        *({**spec, "address": address, "first": client * 1_000_003} for client in range(CLIENTS))
    )
    return float(sum(result["rate"] for result in found))


async def _sample_create(settings: Settings, spec: dict[str, Any]) -> str:
    request = CreateTaskRequest(
        project_id=spec["projects"][0],
        task=Task(
            title="Check pump 1 of the east pier", description="x" * 82, labels=["area 7", "kind 3"]
        ),
    )
    async with grpc.aio.insecure_channel(settings.task) as channel:
        answer = await TaskServiceStub(channel).CreateTask(request, metadata=_metadata(spec))
    return base64.b64encode(answer.SerializeToString()).decode()


async def _sample_get(settings: Settings, spec: dict[str, Any]) -> str:
    async with grpc.aio.insecure_channel(settings.task) as channel:
        answer = await TaskServiceStub(channel).GetTask(
            GetTaskRequest(id=spec["tasks"][0]), metadata=_metadata(spec)
        )
    return base64.b64encode(answer.SerializeToString()).decode()


def _metadata(spec: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {spec['tokens'][0]}"),)


async def _pages(settings: Settings, found: Dataset) -> dict[str, list[str]]:
    """Requests in base64, by kind: first pages, and pages deep within the list."""
    one = TaskFilter(project_ids=[found.projects[7]])
    first = {
        "1,000 tasks": ListTasksRequest(workspace_id=WORKSPACES[SMALL], page_size=PAGE),
        "1,000,000 tasks": ListTasksRequest(workspace_id=WORKSPACES[LARGE], page_size=PAGE),
        "project of 1,000 among them": ListTasksRequest(
            workspace_id=WORKSPACES[LARGE], filter=one, page_size=PAGE
        ),
    }
    requests = {name: [encoded(request)] for name, request in first.items()}
    for name, project in (
        ("1,000 tasks", SMALL_PROJECT),
        ("1,000,000 tasks", None),
        ("project of 1,000 among them", found.projects[7]),
    ):
        deep = await deep_pages(settings, first[name], project)
        if name == "1,000 tasks":
            requests[name] += deep
        else:
            requests[f"{name}, deep"] = deep
    return requests


async def deep_pages(settings: Settings, first: ListTasksRequest, project: str | None) -> list[str]:
    """Requests in base64 for pages deep within the list that `first` requests."""
    return [encoded(await _deep(settings, first, project, depth)) for depth in _DEPTHS]


async def _deep(
    settings: Settings, request: ListTasksRequest, project: str | None, depth: float
) -> ListTasksRequest:
    """The page that starts after this share of the tasks."""
    [row] = await dataset.execute(
        superuser(settings),
        """
        SELECT created_at, id FROM task.tasks
        WHERE workspace_id = %(workspace)s AND (%(project)s::uuid IS NULL OR project_id = %(project)s)
        ORDER BY created_at, id
        OFFSET (SELECT count(*) * %(depth)s FROM task.tasks
          WHERE workspace_id = %(workspace)s AND (%(project)s::uuid IS NULL OR project_id = %(project)s))
        LIMIT 1
        """,
        {"workspace": request.workspace_id, "project": project, "depth": depth},
    )
    place = [row[0].isoformat(), str(row[1])]
    deep = ListTasksRequest()
    deep.CopyFrom(request)
    deep.page_token = pages.token(Seal(settings), name_id("user 1"), request, place)
    return deep


def encoded(request: ListTasksRequest) -> str:
    return base64.b64encode(request.SerializeToString()).decode()
