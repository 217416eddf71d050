"""Making a backup of a running stack, or of the database that the settings name."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from deploy.backup import archive
from deploy.backup.commands import database, run
from deploy.local import binaries
from deploy.local.program import StackError
from services.platform.config import Settings

# Of gzip: most of the gain for a fraction of the time.
_COMPRESSION = "1"


async def make(settings: Settings, target: Path, say: Callable[[str], None]) -> archive.Manifest:
    """Writes a backup into the folder `target`, which must not exist; it's there when it's whole.

    Everything that was committed when this began is in it, and a state that the database really had. Nobody waits for
    it. Raises StackError.
    """
    made_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    server, schema = await _look(settings)
    partial = _begun(target)
    try:
        await _dump(settings, partial / archive.DUMP, say)
        say("Writing keys and sums")
        return _finished(settings, partial, target, archive.Manifest(made_at, server, schema))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _begun(target: Path) -> Path:
    """The folder that the backup is put together in."""
    if target.exists():
        raise StackError(f"{target} exists already: choose another name.")
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=0o700)
    except FileExistsError:
        raise StackError(
            f"{partial} is there: another backup is being made, or broke off. If none is, remove it."
        ) from None
    except OSError as error:
        raise StackError(f"{partial} can't be made: {error.strerror}.") from None
    return partial


def _finished(
    settings: Settings, partial: Path, target: Path, manifest: archive.Manifest
) -> archive.Manifest:
    """What the settings place elsewhere, keys or a database with its password, is somebody else's to keep."""
    try:
        if settings.database_url is None:
            archive.copy_password(settings.data_dir, partial)
        if settings.signing_key_dir is None:
            archive.copy_keys(settings.keys, partial)
        sealed = archive.seal(partial, manifest)
        partial.rename(target)
    except OSError as error:
        raise StackError(f"The backup can't be written: {error.strerror}.") from None
    return sealed


async def _look(settings: Settings) -> tuple[str, str]:
    """The version of the server, and the revision of the schema."""
    try:
        async with await psycopg.AsyncConnection.connect(
            settings.postgres, connect_timeout=5
        ) as connection:
            found = await connection.execute(
                "SELECT current_setting('server_version'), (SELECT version_num FROM alembic_version)"
            )
            row = await found.fetchone()
    except psycopg.errors.UndefinedTable:
        raise StackError("There is nothing of TaskFlow in this database.") from None
    except psycopg.OperationalError:
        place = "" if settings.database_url else f" on port {settings.postgres_port}"
        raise StackError(
            f"PostgreSQL doesn't answer{place}: a backup is made while TaskFlow runs. Start it with `make up`."
        ) from None
    assert row is not None
    return str(row[0]), str(row[1])


async def _dump(settings: Settings, file: Path, say: Callable[[str], None]) -> None:
    """One snapshot of the whole database. Readers and writers don't notice it; changes of the schema wait."""
    address, password = database(settings.postgres)
    command = [
        str(binaries.postgres("pg_dump")),
        *("--format=custom", f"--compress={_COMPRESSION}", "--no-owner", "--no-privileges"),
        *(f"--file={file}", f"--dbname={address}"),
    ]

    def progress() -> None:
        if file.exists():
            say(f"Writing {file.name}: {file.stat().st_size / 1e6:,.1f} MB")

    say(f"Writing {file.name}")
    await run("pg_dump", command, os.environ | password, progress)
