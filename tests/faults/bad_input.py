"""Bad input for every RPC (docs/promises.md): `python -m tests.faults.bad_input --cases 20000`.

It starts the services as separate processes, sends them the corpus, and lists every undocumented answer.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from deploy.local.stack import Stack, running_stack
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from taskflow.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.conftest import settings_for
from tests.faults.bad_input_cases import Case, cases
from tests.faults.rpcs import documented_reasons, every_rpc
from tests.faults.samples import Samples, new_samples

# Number of cases in `make test`, and in the profiles of `make faults`.
CASES = {"": 3_000, "short": 20_000, "long": 200_000}
# How many requests are sent at once, and after how many requests the samples are renewed.
_AT_ONCE = 16
_CHUNK = 1_000
# The first chunks fill pools and caches and aren't measured.
_FILLING = 2
# The processes that answer RPCs, and the programs that they need.
MEASURED = ("auth", "task", "notification")
_PROGRAMS = {"postgres", "nats", "migrate", "relay", *MEASURED}
# The most bytes that a service process may grow by.
MOST_GROWTH = 50 * 2**20
# Status codes that no request may cause, however bad its input is.
_NEVER = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE"}
_INNER_LIFE = re.compile(
    r"[A-Z]\w*(Error|Exception)\b|Traceback|psycopg|sqlalchemy|protobuf|<class|object at 0x|File \"|site-packages"
    r"|SQLSTATE|relation \"|constraint \"|LINE \d|services[./]|\.py\b"
)


@dataclass(frozen=True)
class Answer:
    code: str
    reason: str
    told: str
    seconds: float


@dataclass
class Report:
    seed: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    # The most bytes that any measured process grew by after the first chunks.
    growth: int = 0

    @property
    def cases(self) -> int:
        return self.counts.total()

    def note(self, case: Case, answer: Answer, problem: str) -> None:
        self.counts[case.kind, answer.code] += 1
        name = f"case {case.number}: {case.kind}, {case.rpc.path}"
        self.slowest = max(self.slowest, (answer.seconds, name))
        if problem:
            shown = case.raw[:60].hex() + ("…" if len(case.raw) > 60 else "")
            self.wrong.append(f"{name}: {problem} [{answer.told[:300]!r}] for {shown}")

    def table(self) -> str:
        codes = [
            code for code, _ in Counter(code for _, code in self.counts.elements()).most_common()
        ]
        lines = [f"{'kind':<24}" + "".join(f"{_short(code):>9}" for code in codes)]
        lines += [
            f"{kind:<24}" + "".join(f"{self.counts[kind, code] or '':>9}" for code in codes)
            for kind in dict.fromkeys(kind for kind, _ in self.counts)
        ]
        lines += [
            f"seed {self.seed}: {self.cases:,} cases over {len(every_rpc())} RPCs, {len(self.wrong)} wrong,"
            f" memory grew by {self.growth / 2**20:.0f} MiB",
            f"slowest {self.slowest[0]:.2f} s ({self.slowest[1]})",
        ]
        return "\n".join(lines)


def _short(code: str) -> str:
    return "".join(word[0] for word in code.split("_")) if "_" in code else code[:8]


async def hold(
    samples: Samples,
    stack: Stack,
    seed: int,
    count: int,
    only: Iterable[int] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Send `count` cases, or those named in `only`, to the services of the stack."""
    report = Report(seed)
    if only:
        for number in only:
            await _send(samples, range(number, number + 1), report)
        return report
    pids = [stack.pid(name) for name in MEASURED]
    logs = {log: log.stat().st_size for log in _logs(stack)}
    before: list[int] = []
    for start in range(0, count, _CHUNK):
        await _send(samples, range(start, min(start + _CHUNK, count)), report)
        await samples.renew()
        await _alive(samples)
        say(f"{report.cases:,} cases")
        now = [_resident(pid) for pid in pids]
        if start < _FILLING * _CHUNK:
            before = now
        grown = max(after - then for after, then in zip(now, before, strict=True))
        report.growth = max(report.growth, grown)
    if ended := [name for name, pid in zip(MEASURED, pids, strict=True) if stack.pid(name) != pid]:
        report.wrong.append(f"ended and was started again: {', '.join(ended)}")
    report.wrong += _logged(samples, logs)
    return report


def _logs(stack: Stack) -> list[Path]:
    return [stack.settings.data_dir / "logs" / f"{name}.log" for name in MEASURED]


def _logged(samples: Samples, logs: dict[Path, int]) -> Iterator[str]:
    """Secrets and unreported errors in the logs after these byte offsets."""
    for log, begin in logs.items():
        text = log.read_bytes()[begin:].decode()
        for secret in (*samples.secrets, samples.mark):
            if secret in text:
                yield f"{log.stem} logged a secret or a text, {secret[:4]}…"
        for line in re.findall(r"^.*\[error.*(?:\n .*)*", text, re.M)[:5]:
            yield f"{log.stem} logged {line[:500]}"


async def _send(samples: Samples, numbers: range, report: Report) -> None:
    waiting = cases(samples, report.seed, numbers)

    async def work() -> None:
        for case in waiting:
            answer = await send(samples, case)
            report.note(case, answer, problem(samples, case, answer))

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


async def send(samples: Samples, case: Case) -> Answer:
    """Sends a case; returns a stream's first answer, or a unary call's only answer."""
    started = time.perf_counter()
    try:
        await _called(samples.channels[case.rpc.process], case)
    except grpc.aio.AioRpcError as error:
        return _refused(error, time.perf_counter() - started)
    except asyncio.CancelledError:
        # grpc.aio raises CancelledError for a call that ended before it started.
        if asyncio.current_task().cancelling():  # type: ignore[union-attr]
            raise
        return Answer("CANCELLED", "", "", time.perf_counter() - started)
    return Answer("OK", "", "", time.perf_counter() - started)


async def _called(channel: grpc.aio.Channel, case: Case) -> None:
    method, rpc = case.rpc.method, case.rpc
    more: Any = {
        "timeout": case.timeout,
        "metadata": case.metadata,
        "compression": case.compression,
    }
    parse: Any = {"response_deserializer": rpc.response.FromString}
    if not method.server_streaming:
        one: Awaitable[Any] = channel.unary_unary(rpc.path, **parse)(case.raw, **more)
        await one
        return
    call: Any
    if method.client_streaming:
        call = channel.stream_stream(rpc.path, **parse)(iter([case.raw]), **more)
    else:
        call = channel.unary_stream(rpc.path, **parse)(case.raw, **more)
    try:
        if await call.read() is grpc.aio.EOF:
            await call.code()
    finally:
        call.cancel()


def _refused(error: grpc.aio.AioRpcError, seconds: float) -> Answer:
    trailing: Any = error.trailing_metadata()
    raw = dict(trailing or ()).get("grpc-status-details-bin", b"")
    status = status_pb2.Status.FromString(raw)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    told = f"{error.details()} {raw.decode(errors='replace') if raw else ''}"
    # grpc.aio raises this error when a stream ended before the request was sent completely.
    over = error.details() == "Internal error from Core"
    return Answer("CANCELLED" if over else error.code().name, info.reason, told, seconds)


def problem(samples: Samples, case: Case, answer: Answer) -> str:
    """What is wrong with the answer; empty if it is as documented."""
    wanted = case.wanted
    if answer.code in _NEVER:
        return f"{answer.code} {answer.reason}"
    if leaked := [secret[:4] for secret in samples.secrets if secret in answer.told]:
        return f"tells a secret, {leaked[0]}…"
    told = answer.told.replace("type.googleapis.com/", "")
    if found := _INNER_LIFE.search(told):
        return f"tells of its inner life, {found[0]!r}"
    if wanted is not None and answer.code in wanted:
        return "" if answer.code == "OK" else _undocumented(case, answer)
    if wanted is not None and "*" not in wanted:
        early = case.refused_early and answer.code == "RESOURCE_EXHAUSTED" and not answer.reason
        return (
            ""
            if early
            else f"{answer.code} {answer.reason} instead of {' or '.join(sorted(wanted))}"
        )
    return "" if answer.code == "OK" else _undocumented(case, answer)


def _undocumented(case: Case, answer: Answer) -> str:
    """Describes an error whose gRPC code isn't the documented one for its reason.

    Empty if the error is documented, or comes from gRPC or the client.
    """
    by_grpc = case.refused_early and answer.code == "RESOURCE_EXHAUSTED"
    by_client = case.timeout < 1 and answer.code in ("DEADLINE_EXCEEDED", "CANCELLED")
    if answer.reason == "" and (by_grpc or by_client or not case.rpc.ours):
        return ""
    if documented_reasons().get(answer.reason) != answer.code:
        return f"{answer.code} isn't documented for {answer.reason or 'no reason'}"
    return ""


async def _alive(samples: Samples) -> None:
    """Check that the services still serve a read and a write."""
    await samples.team.users.GetCurrentUser(
        GetCurrentUserRequest(), metadata=samples.owner.credentials, timeout=10
    )
    request = CreateTaskRequest(
        project_id=samples.ids["project"][0], task=Task(title="Still serving")
    )
    answer = await TaskServiceStub(samples.channels["task"]).CreateTask(
        request, metadata=samples.owner.credentials, timeout=10
    )
    assert answer.task.title == "Still serving"


def _resident(process: int) -> int:
    """Resident memory of a process, in bytes."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    options = _options()
    print(f"bad input, seed {options.seed}", flush=True)
    report = asyncio.run(_held(options))
    print(report.table())
    for line in report.wrong[:40]:
        print(line)
    sys.exit(bool(report.wrong) or report.growth > MOST_GROWTH)


async def _held(options: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory(prefix="taskflow-bad-input-") as folder:
        settings = settings_for(Path(folder) / "data")
        async with (
            running_stack(settings, only=_PROGRAMS) as stack,
            new_samples(stack.settings) as samples,
        ):
            return await hold(samples, stack, options.seed, options.cases, options.only)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.bad_input")
    parser.add_argument("--cases", type=int, default=CASES["short"])
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", type=int, nargs="*", default=(), help="numbers of single cases")
    return parser.parse_args()


if __name__ == "__main__":
    main()
