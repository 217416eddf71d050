"""The disk of Postgres is full: writes are refused with a clear error, and resume once there is space."""

import asyncio
import os
import shutil
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psycopg

from deploy.local.stack import running_stack
from tests.conftest import settings_for
from tests.faults.harness.checker import check
from tests.faults.harness.injectors import filled_disk, limited_disk
from tests.faults.harness.load import at_rate
from tests.faults.harness.oplog import OperationLog
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import World, a_world
from tests.faults.harness.writers import Writers

PROMISE = "A full disk refuses writes, and loses none that was acknowledged"
LIMIT_SECONDS = {"short": 300.0, "long": 1800.0}

# A separate stack, as its database is on another disk. Only the programs needed for writing tasks.
_PROGRAMS = {"postgres", "nats", "migrate", "auth", "task"}
_DISK_BYTES = 256 * 1024**2
_RATE = 60.0
# A long text, to fill pages quickly.
_DESCRIPTION = "The bearing runs warm. " * 200
# Seconds to recover once there is space. Postgres may have crashed, and the launcher delays its restart.
_RECOVERY_SECONDS = 30.0


async def run(run: Run, tally: Tally) -> None:
    settings = settings_for(run.folder / "data", login_attempts_per_address=1_000_000)
    data = run.folder / "data" / "postgres"
    async with running_stack(settings, only={"postgres"}):
        pass
    async with AsyncExitStack() as exit_stack:
        exit_stack.enter_context(limited_disk(run.folder / "disk", _DISK_BYTES))
        _move(data, run.folder / "disk")
        stack = await exit_stack.enter_async_context(running_stack(settings, only=_PROGRAMS))
        small = replace(run, stack=stack)
        world = await exit_stack.enter_async_context(
            a_world(small, people=5, projects=2, at=small.address("task"))
        )
        log = exit_stack.enter_context(OperationLog(run.folder / "operations"))
        await _fill(small, world, log, tally)


def _move(data: Path, disk: Path) -> None:
    """Move the database to the limited disk and link to it. Postgres requires the right owner and mode."""
    owner = data.stat()
    os.chown(disk, owner.st_uid, owner.st_gid)
    shutil.copytree(data, disk / "postgres")
    _own(disk / "postgres", owner.st_uid, owner.st_gid)
    shutil.rmtree(data)
    data.symlink_to(disk / "postgres")


def _own(folder: Path, user: int, group: int) -> None:
    folder.chmod(0o700)
    for root, _, files in os.walk(folder):
        os.chown(root, user, group)
        for file in files:
            os.chown(os.path.join(root, file), user, group)


async def _fill(run: Run, world: World, log: OperationLog, tally: Tally) -> None:
    writers = Writers(world.stubs, world.workspace, log, run.random, _DESCRIPTION, reads=False)
    async with at_rate(_RATE, writers.act) as load:
        await asyncio.sleep(run.choose(1.5, 10.0))
        before = writers.failures.copy()
        with filled_disk(run.folder / "disk"):
            tally.faults += 1
            refused = await _refused(writers, run.choose(10.0, 60.0))
            run.say("no space for tables")
            await asyncio.sleep(run.choose(1.0, 15.0))
            await _end_log(world)
            run.say("no space for the write-ahead log either")
            await asyncio.sleep(run.choose(2.0, 15.0))
            full = writers.failures - before
        freed = time.monotonic()
        await _accepted(writers)
        tally.recovered_after(time.monotonic() - freed)
        await asyncio.sleep(run.choose(1.5, 10.0))
    tally.operations = load.begun
    tally.expect(not before, f"calls failed with space left: {_said(before)}")
    tally.expect(refused, "a full disk refused nothing: the fault didn't take place")
    tally.expect(
        tally.slowest_recovery <= _RECOVERY_SECONDS,
        f"writes were accepted only {tally.slowest_recovery:.1f} s after there was space",
    )
    tally.expect(
        not writers.codes["INTERNAL"], f"{writers.codes['INTERNAL']} calls were answered INTERNAL"
    )
    tally.figures["failures while the disk was full"] = _said(full)
    await check(world.settings, world.workspace.id, log, tally)


async def _refused(writers: Writers, seconds: float) -> bool:
    """Whether a write fails within this many seconds."""
    before = writers.failures.total()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while writers.failures.total() == before:
                await asyncio.sleep(0.05)
    return writers.failures.total() > before


async def _end_log(world: World) -> None:
    """Make Postgres start new WAL files until there is no space for one, which crashes the server."""
    with suppress(psycopg.Error):
        for _ in range(100):
            await world.fetch(
                "SELECT pg_switch_wal(), pg_logical_emit_message(true, 'fault', repeat('x', 1000))"
            )


async def _accepted(writers: Writers) -> None:
    """Return when writes are acknowledged again, or after the time limit."""
    with suppress(TimeoutError):
        async with asyncio.timeout(2 * _RECOVERY_SECONDS):
            before = writers.codes["OK"]
            while writers.codes["OK"] == before:
                await asyncio.sleep(0.05)


def _said(failures: Counter[str]) -> str:
    return "; ".join(f"{n:,} × {text}" for text, n in failures.most_common(5)) or "none"
