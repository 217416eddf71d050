"""Makes a backup of a running stack, or of the database that the settings name."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from deploy.backup import backup_folder
from deploy.backup.commands import database, run
from deploy.local import binaries
from deploy.local.program import StackError
from services.platform.config import Settings

# The fastest gzip level: it saves most of the space that a slower level would save.
_COMPRESSION = "1"


async def make(
    settings: Settings, target: Path, say: Callable[[str], None]
) -> backup_folder.Manifest:
    """Writes a backup into the folder `target`, which must not exist and appears once the backup is complete.

    The backup is one snapshot of the database, with everything committed before it began. It blocks neither readers
    nor writers. Raises StackError.
    """
    made_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    server, schema = await _versions(settings)
    partial = _begin(target)
    try:
        await _dump(settings, partial / backup_folder.DUMP, say)
        say("Writing keys and checksums")
        return _finish(settings, partial, target, backup_folder.Manifest(made_at, server, schema))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _begin(target: Path) -> Path:
    """Creates the folder that collects the backup until it is complete."""
    if target.exists():
        raise StackError(f"{target} exists already: choose another name.")
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)
    except FileExistsError:
        raise StackError(
            f"{partial} exists: another backup is running, or one was interrupted. If none is running, remove it."
        ) from None
    except OSError as error:
        raise StackError(f"{partial} can't be made: {error.strerror}.") from None
    return partial


def _finish(
    settings: Settings, partial: Path, target: Path, manifest: backup_folder.Manifest
) -> backup_folder.Manifest:
    """Adds secrets and keys, except those of an external database or key folder, and completes the backup."""
    try:
        if settings.database_url is None:
            backup_folder.copy_secrets(settings.data_dir, partial)
        if settings.signing_key_dir is None:
            backup_folder.copy_keys(settings.keys, partial)
        sealed = backup_folder.seal(partial, manifest)
        partial.rename(target)
    except OSError as error:
        raise StackError(f"The backup can't be written: {error.strerror}.") from None
    return sealed


async def _versions(settings: Settings) -> tuple[str, str]:
    """The version of the server, and the revision of the schema."""
    try:
        async with await psycopg.AsyncConnection.connect(
            settings.postgres_owner, connect_timeout=5
        ) as connection:
            found = await connection.execute(
                "SELECT current_setting('server_version'), (SELECT version_num FROM alembic_version)"
            )
            row = await found.fetchone()
    except psycopg.errors.UndefinedTable:
        raise StackError("This database doesn't belong to TaskFlow.") from None
    except psycopg.OperationalError:
        place = "" if settings.database_url else f" on port {settings.postgres_port}"
        raise StackError(
            f"PostgreSQL doesn't answer{place}: a backup is made while TaskFlow runs. Start it with `make up`."
        ) from None
    assert row is not None
    return str(row[0]), str(row[1])


async def _dump(settings: Settings, file: Path, say: Callable[[str], None]) -> None:
    """Dumps one snapshot of the whole database. Only schema changes have to wait for it."""
    address, password = database(settings.postgres_owner)
    command = [
        _pg_dump(settings.postgres_owner),
        *("--format=custom", f"--compress={_COMPRESSION}", "--no-owner", "--no-privileges"),
        *(f"--file={file}", f"--dbname={address}"),
    ]

    def progress() -> None:
        if file.exists():
            say(f"Writing {file.name}: {file.stat().st_size / 1e6:,.1f} MB")

    say(f"Writing {file.name}")
    await run("pg_dump", command, os.environ | password, progress)


def _pg_dump(url: str) -> str:
    """The pg_dump for this database. The local stack's own pg_dump can't speak TLS."""
    if str(conninfo_to_dict(url).get("sslmode", "prefer")) in ("disable", "allow", "prefer"):
        return str(binaries.postgres("pg_dump"))
    installed = shutil.which("pg_dump")
    if installed is None:
        raise StackError(
            "The database's address demands TLS, which the pg_dump of the local stack can't speak: "
            "install PostgreSQL's client programs, of the server's version or newer."
        )
    return installed
