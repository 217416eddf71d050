"""Runs the programs that make and restore a backup."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.local.process import child_command
from deploy.local.program import Program, StackError

_EVERY = 0.5


def database(url: str) -> tuple[str, dict[str, str]]:
    """The connection string without its password, and environment variables with it: command lines are public."""
    parts: dict[str, Any] = dict(conninfo_to_dict(url))
    password = parts.pop("password", None)
    environment = {"PGPASSFILE": os.devnull, "LC_ALL": "C"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    return make_conninfo(**parts), environment


async def run(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    meanwhile: Callable[[], None] = lambda: None,
) -> str:
    """Runs a command that ends with this process, and returns its output. Raises StackError when it fails.

    `meanwhile` is called every half second.
    """
    process = await asyncio.create_subprocess_exec(
        *child_command(Program(name=name, command=tuple(command))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
    )
    communicating = asyncio.ensure_future(process.communicate())
    try:
        while not communicating.done():
            await asyncio.wait({communicating}, timeout=_EVERY)
            meanwhile()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    output = communicating.result()[0].decode(errors="replace").strip()
    if process.returncode != 0:
        raise StackError(f"{name} failed: {output or f'it ended with {process.returncode}'}")
    return output
