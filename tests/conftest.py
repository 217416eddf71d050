"""Real servers for the tests: one embedded stack per test process, on free ports and in a temporary folder."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import postgres
from deploy.local.ports import whole_stack
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings

# A shell makes background jobs ignore SIGINT, and child processes inherit this. With a handler here, child processes
# get the default action again. Then tests can send Ctrl-C to the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda number, frame: None)

INFRASTRUCTURE = {"postgres", "nats", "temporal", "mail", "migrate"}

# Shorter intervals than in production, with the same meaning.
_BRISK: dict[str, object] = {
    "drain_notice": 0,
    "drain_grace": 1,
    "session_check_interval": 0.3,
    "heartbeat_interval": 1,
    "enrich_debounce": 0.2,
    "email_window": 0,
    "login_attempts_per_address": 1_000_000,
}


def settings_for(data_dir: Path, **overrides: object) -> Settings:
    """Settings on free ports."""
    chosen: dict[str, Any] = {**whole_stack(), **_BRISK, **overrides}
    return Settings(data_dir=data_dir, **chosen)


def superuser(settings: Settings, database: str = postgres.DATABASE) -> str:
    """The address of an embedded database for its superuser, who may do what no process of TaskFlow may."""
    return postgres.url(settings.data_dir, settings.postgres_port, database=database)


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Postgres (migrated), NATS, Temporal and the mail catcher. Services are started by `serve`."""
    settings = settings_for(tmp_path_factory.mktemp("stack") / "data")
    async with running_stack(settings, only=INFRASTRUCTURE) as running:
        yield running


@pytest.fixture(scope="session")
def settings(stack: Stack) -> Settings:
    """The settings of the running stack, with its addresses."""
    return stack.settings


@asynccontextmanager
async def serving(name: str, settings: Settings) -> AsyncIterator[None]:
    """One service, or the relay, in this process, as `python -m services` runs it."""
    from services import app  # a slow import, which tests without servers shouldn't pay for

    stop = asyncio.Event()
    work = (
        app.run_relay(settings, stop) if name == "relay" else app.run_service(name, settings, stop)
    )
    task = asyncio.create_task(work, name=name)
    try:
        if name != "relay":
            await _healthy(task, getattr(settings, name))
        yield
    finally:
        stop.set()
        await task


async def _healthy(task: asyncio.Task[None], address: str) -> None:
    async with asyncio.timeout(20), grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            if task.done():
                task.result()
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
async def services(settings: Settings) -> AsyncIterator[Settings]:
    """All three services and the relay, in this process; their addresses are in the settings."""
    async with AsyncExitStack() as running:
        for name in ("auth", "task", "notification", "relay"):
            await running.enter_async_context(serving(name, settings))
        yield settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="rewrite the golden files of tests/wire"
    )
