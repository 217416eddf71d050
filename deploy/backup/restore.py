"""Restores a backup into an empty data folder, for `make up` to start from."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.backup import backup_folder
from deploy.backup.commands import database, run
from deploy.local import binaries, postgres
from deploy.local.data_folder import RESTORING, is_claimed
from deploy.local.program import StackError
from deploy.local.programs import child_environment
from deploy.local.stack import Stack, running_stack
from services.platform.config import Settings

_VERSIONS = binaries.REPOSITORY / "services" / "migrations" / "versions"
_MOST_JOBS = 4

Say = Callable[[str], None]


async def restore(settings: Settings, source: Path, say: Say) -> backup_folder.Manifest:
    """Fills the settings' data folder, which has to be empty, from the backup and migrates its schema.

    The restored files are moved into place at the end. An interrupted restore leaves the folder empty, or in a state
    that the launcher refuses. Raises StackError.
    """
    if settings.database_url is not None:
        raise StackError(
            "TASKFLOW_DATABASE_URL is set: docs/operations.md says how to restore an external database."
        )
    say("Checking the backup")
    manifest = backup_folder.opened(source)
    _check_schema(manifest)
    folder = settings.data_dir.resolve()
    _check_empty(folder)
    room = folder / RESTORING
    try:
        room.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StackError(f"{room} can't be made: {error.strerror}.") from None
    try:
        await _fill(settings, source, room, say)
        _move_up(room, folder)
    except OSError as error:
        raise StackError(f"The backup can't be restored: {error}.") from None
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return manifest


def _check_schema(manifest: backup_folder.Manifest) -> None:
    newest = max(file.name[:4] for file in _VERSIONS.glob("[0-9]*.py"))
    if manifest.schema > newest:
        raise StackError(
            f"The backup is from a newer TaskFlow: its schema is {manifest.schema}, this one's {newest}. "
            "Restore it with that version."
        )


def _check_empty(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StackError(f"{folder} isn't a folder.")
    if not any(folder.iterdir()):
        return
    if is_claimed(folder):
        raise StackError(
            f"TaskFlow is running on {folder}. Stop it and move the folder away, or set TASKFLOW_DATA_DIR to another."
        )
    raise StackError(
        f"{folder} isn't empty. Move it away, or set TASKFLOW_DATA_DIR to another: nothing is overwritten."
    )


async def _fill(settings: Settings, source: Path, room: Path, say: Say) -> None:
    backup_folder.copy_secrets(source, room)
    backup_folder.copy_keys(source / backup_folder.KEYS, room)
    temporary = Settings(
        **(settings.model_dump() | {"data_dir": room, "postgres_port": _free_port(settings.host)})
    )
    say("Starting PostgreSQL")
    async with running_stack(temporary, only={"postgres"}) as stack:
        await _load(stack, source / backup_folder.DUMP, say)
        for command, doing in (
            ("migrate", "Migrating the schema"),
            ("recover", "Scheduling events, reminders, jobs and mail again"),
        ):
            say(doing)
            line = (sys.executable, "-m", "services", command)
            environment = child_environment(stack.settings, owner=True)
            said = await run(command, line, environment)
        say(said.splitlines()[-1])


async def _load(stack: Stack, dump: Path, say: Say) -> None:
    # As the owner, who isn't a superuser: a dump can contain any statement.
    address, password = database(stack.settings.postgres_owner)
    jobs = min(_MOST_JOBS, os.cpu_count() or 1)
    command = [
        str(binaries.postgres("pg_restore")),
        *("--no-owner", "--no-privileges", "--exit-on-error", f"--jobs={jobs}"),
        *(f"--dbname={address}", str(dump)),
    ]
    say(f"Loading {dump.name}")
    await run("pg_restore", command, os.environ | password)


def _move_up(room: Path, folder: Path) -> None:
    """Moves the database last: until then the leftover RESTORING keeps the launcher from starting an empty one."""
    passwords = [postgres.password_file(account) for account in (postgres.OWNER, postgres.APP)]
    for name in (backup_folder.KEYS, *backup_folder.SECRETS, *passwords, "postgres"):
        if (room / name).exists():
            (room / name).rename(folder / name)


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port
