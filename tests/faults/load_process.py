"""`python -m tests.faults.load_process`: sends calls at a fixed rate, even while earlier ones still wait.

It takes commands on stdin as tests/bench/load does.

The input is a line of JSON:
- `address`, `seed`, and the length of the load in `seconds`
- `mix`: the weight of each kind of call, with the parameters that `_KINDS` names
- `deadline`: the time limit of a call (seconds)
- `rate`: calls per second; or `in_flight`: concurrent calls, with a `pause` (seconds) after each refusal

The output is a line of JSON:
- `codes`: the number of calls by status code
- `in_time`: the number of calls that succeeded within `seconds`
- `milliseconds`: the duration of each call, by status code
- `wordless`: the number of refusals without a reason or without a retry delay
- `limits`: the number of refusals by limit and scope
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from taskflow.auth.v1.auth_service_pb2 import LoginRequest, RegisterRequest
from taskflow.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from taskflow.task.v1.task_pb2 import Task, TaskFilter
from taskflow.task.v1.task_service_pb2 import (
    CreateTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    UpdateTaskRequest,
)
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.bench.load.control import Control

_REFUSED = "RESOURCE_EXHAUSTED"
_LISTED = 100

# A function that makes one call; its argument chooses the call's random values.
Call = Callable[[random.Random], Awaitable[Any]]


async def main() -> None:
    control = await Control.on_stdin()
    spec = json.loads(await control.line())
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(spec["address"], options=options) as channel:
        await channel.channel_ready()
        await control.start()
        found = await _Load(channel, spec).run()
    print(json.dumps(found), flush=True)


class _Load:
    def __init__(self, channel: grpc.aio.Channel, spec: Any) -> None:
        self._spec = spec
        self._chance = random.Random(spec["seed"])
        self._calls = {kind: _KINDS[kind](channel, spec) for kind in spec["mix"]}
        self._kinds, self._weights = list(spec["mix"]), list(spec["mix"].values())
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._wordless = 0
        self._limits: Counter[str] = Counter()
        self._in_time = 0
        self._end = 0.0

    async def run(self) -> dict[str, Any]:
        self._end = time.monotonic() + self._spec["seconds"]
        if "rate" in self._spec:
            await self._keep_rate()
        else:
            await asyncio.gather(*(self._in_turn() for _ in range(self._spec["in_flight"])))
        return {
            "codes": {code: len(times) for code, times in self._took.items()},
            "in_time": self._in_time,
            "milliseconds": self._took,
            "wordless": self._wordless,
            "limits": self._limits,
        }

    async def _keep_rate(self) -> None:
        rate, seconds = self._spec["rate"], self._spec["seconds"]
        begin = time.monotonic()
        under_way: set[asyncio.Task[str]] = set()
        for number in range(int(rate * seconds)):
            rest = begin + number / rate - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
            call = asyncio.create_task(self._one())
            under_way.add(call)
            call.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _in_turn(self) -> None:
        while time.monotonic() < self._end:
            if await self._one() == _REFUSED:
                await asyncio.sleep(self._spec.get("pause", 0))

    async def _one(self) -> str:
        (kind,) = self._chance.choices(self._kinds, self._weights)
        begun = time.monotonic()
        try:
            await self._calls[kind](self._chance)
            code = "OK"
            self._in_time += time.monotonic() < self._end
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if code == _REFUSED:
                limit = limit_of(error)
                self._wordless += not limit
                self._limits[limit] += 1
        self._took[code].append(1e3 * (time.monotonic() - begun))
        return code


def limit_of(error: grpc.aio.AioRpcError) -> str:
    """What refused the call: "<limit> (<scope>)", or "overloaded". Empty without a reason or a retry delay."""
    trailing: Any = error.trailing_metadata()
    raw = dict(trailing or ()).get("grpc-status-details-bin", b"")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(raw).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    if not retry.HasField("retry_delay"):
        return ""
    if info.reason == "CALLER_LIMIT_REACHED":
        return f"{info.metadata['limit']} ({info.metadata['scope']})"
    return "overloaded" if info.reason == "OVERLOADED" else ""


def _of_tasks(make: Callable[[Any, Any, random.Random], Callable[..., Awaitable[Any]]]) -> Any:
    """A call of the task service. Its parameters are `tokens`, `workspace`, `project` and `tasks`."""

    def kind(channel: grpc.aio.Channel, spec: Any) -> Call:
        stub = TaskServiceStub(channel)
        people = [(("authorization", f"Bearer {token}"),) for token in spec["tokens"]]

        async def call(chance: random.Random) -> Any:
            method = make(stub, spec, chance)
            return await method(metadata=chance.choice(people), timeout=spec["deadline"])

        return call

    return kind


def _get(stub: Any, spec: Any, chance: random.Random) -> Any:
    request = GetTaskRequest(id=chance.choice(spec["tasks"]))
    return lambda **more: stub.GetTask(request, **more)


def _list(stub: Any, spec: Any, chance: random.Random) -> Any:
    request = ListTasksRequest(workspace_id=spec["workspace"], page_size=_LISTED)
    return lambda **more: stub.ListTasks(request, **more)


def _update(stub: Any, spec: Any, chance: random.Random) -> Any:
    task = Task(id=chance.choice(spec["tasks"]), labels=[f"shelf {chance.randrange(1000)}"])
    request = UpdateTaskRequest(task=task, update_mask=FieldMask(paths=["labels"]))
    return lambda **more: stub.UpdateTask(request, **more)


def _create(stub: Any, spec: Any, chance: random.Random) -> Any:
    title = f"Check valve {UUID(int=chance.getrandbits(128))}"
    request = CreateTaskRequest(project_id=spec["project"], task=Task(title=title))
    return lambda **more: stub.CreateTask(request, **more)


def _search(stub: Any, spec: Any, chance: random.Random) -> Any:
    wanted = TaskFilter(text=f"nowhere {chance.randrange(1000)}")
    request = ListTasksRequest(workspace_id=spec["workspace"], filter=wanted)
    return lambda **more: stub.ListTasks(request, **more)


def _register(channel: grpc.aio.Channel, spec: Any) -> Call:
    stub = AuthServiceStub(channel)

    async def call(chance: random.Random) -> Any:
        request = RegisterRequest(
            email=f"{UUID(int=chance.getrandbits(128))}@example.com",
            password="correct horse battery staple",
            display_name="Somebody",
        )
        return await stub.Register(request, timeout=spec["deadline"])

    return call


def _login(channel: grpc.aio.Channel, spec: Any) -> Call:
    """A login to one of the accounts `emails`, with `password`."""
    stub = AuthServiceStub(channel)

    async def call(chance: random.Random) -> Any:
        request = LoginRequest(email=chance.choice(spec["emails"]), password=spec["password"])
        return await stub.Login(request, timeout=spec["deadline"])

    return call


_KINDS: dict[str, Callable[[grpc.aio.Channel, Any], Call]] = {
    "get": _of_tasks(_get),
    "list": _of_tasks(_list),
    "update": _of_tasks(_update),
    "create": _of_tasks(_create),
    "login": _login,
    "register": _register,
    "search": _of_tasks(_search),
}

if __name__ == "__main__":
    try:
        asyncio.run(main())
    except EOFError:
        # The runner has ended, so this load process ends without a result.
        sys.exit(1)
