"""P10 and P11: time of `make up` on an empty folder until everything serves, and memory at rest."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

from deploy.local.envoy import admin_socket
from deploy.local.probes import gateway_routes, grpc_serving, http_get
from services.platform.config import Settings
from tests.bench.memory import command, family, proportional, resident
from tests.bench.rows import ROUNDS, Bench, Limit, Result
from tests.bench.stacks import ports

_ROOT = Path(__file__).resolve().parents[2]
_HOST = "127.0.0.1"
_PATIENCE = 60.0
_LOOK = 0.05
# How long to wait (seconds) until the stack is idle.
_REST = 5.0

_MOST_SECONDS = 10.0
_MOST_MB = 1100.0
_MOST_PYTHON_MB = 130.0
_MB = 1e6


async def cold_start(bench: Bench) -> Result:
    """P10: each time with a new Postgres cluster, but with installed programs and cached files."""
    await bench.stacks.need()
    seconds = []
    for number in range(ROUNDS):
        bench.say(f"round {number + 1}: make up")
        async with _up(bench) as (_, took):
            seconds.append(took)
    limit = Limit(f"≤ {_MOST_SECONDS:g} s", median(seconds) <= _MOST_SECONDS)
    return Result(median(seconds), "s", [limit], details={"values": seconds})


async def at_rest(bench: Bench) -> Result:
    """P11: memory of the idle stack; shared pages count once. One measurement is enough, as results don't vary."""
    await bench.stacks.need()
    bench.say("the stack at rest")
    async with _up(bench) as (pid, _):
        await asyncio.sleep(_REST)
        members = list(family(pid))
        total = sum(map(proportional, members)) / _MB
        pythons = {
            " ".join(line[1:4]): resident(member) / _MB
            for member in members
            if Path((line := command(member))[0]).name.startswith("python")
        }
    largest = max(pythons.values())
    return Result(
        total,
        "MB",
        [
            Limit(f"≤ {_MOST_MB:g} MB", total <= _MOST_MB),
            Limit(f"each Python ≤ {_MOST_PYTHON_MB:g} MB", largest <= _MOST_PYTHON_MB),
        ],
        details={"pythons_resident": pythons},
    )


@asynccontextmanager
async def _up(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    """The pid of `make up`, and the seconds until every health check passed."""
    folder = bench.folder / "up"
    shutil.rmtree(folder, ignore_errors=True)
    settings = Settings(data_dir=folder, **ports(bench.port + 600))  # type: ignore[arg-type]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TASKFLOW_")}
    chosen = {f"TASKFLOW_{k.upper()}": str(v) for k, v in ports(bench.port + 600).items()}
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *("make", "up", "ARGS=--quiet"),
        cwd=_ROOT,
        env=inherited | chosen | {"TASKFLOW_DATA_DIR": str(folder)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await _serves(settings):
                await asyncio.sleep(_LOOK)
        yield process.pid, time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _serves(settings: Settings) -> bool:
    for port in (settings.auth_port, settings.task_port, settings.notification_port):
        if not await grpc_serving(_HOST, port):
            return False
    for port in (
        settings.auth_http_port,
        settings.task_http_port,
        settings.notification_http_port,
        settings.relay_http_port,
        settings.worker_http_port,
    ):
        status, _ = await http_get(_HOST, port, "/healthz")
        if status != 200:
            return False
    return await gateway_routes(admin_socket(settings.data_dir))
