"""PostgreSQL 18 for one machine: its data folder, its account, its command."""

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local import binaries
from deploy.local.process import child_command
from deploy.local.program import Program, StackError
from services.platform.generated_secrets import secret

# The superuser: the launcher alone uses it, to make the other two.
SUPERUSER = DATABASE = "taskflow"
OWNER, APP = "taskflow_owner", "taskflow_app"
VERSION = "18"
_ROLES = Path(__file__).resolve().parents[1] / "postgres" / "roles.sql"
# PostgreSQL refuses to run as root. 65534 is `nobody` wherever there is one, and needs no entry in /etc/passwd.
_UNPRIVILEGED = 65534
# Lets the unprivileged account enter folders that only root may enter, without any other power of root.
# no_setuid_fixup: otherwise access(2), with which Postgres checks its own program, would ignore the capability.
_PASS_FOLDERS = (
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--securebits=+no_setuid_fixup",
)
_CONFIGURATION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # After a crash the launcher restarts Postgres. On a full disk, Postgres restarting itself could hang forever.
    "restart_after_crash": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}


def password(folder: Path, account: str = SUPERUSER) -> str:
    """The password of an account of the embedded database, generated on first use and readable by the owner only."""
    return secret(folder, password_file(account))


def password_file(account: str) -> str:
    return f"{'postgres' if account == SUPERUSER else account}.password"


def url(folder: Path, port: int, account: str = SUPERUSER, database: str = DATABASE) -> str:
    return f"postgresql://{account}:{password(folder, account)}@127.0.0.1:{port}/{database}"


async def make_roles(folder: Path, port: int, database: str = DATABASE) -> None:
    """Makes the accounts of owner and services, unless the database has them already."""
    async with await psycopg.AsyncConnection.connect(
        url(folder, port, database=database), connect_timeout=2
    ) as connection:
        found = await connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        )
        if await found.fetchone() == (OWNER,):
            return
        for account, name in ((OWNER, "owner_password"), (APP, "app_password")):
            await connection.execute(
                "SELECT set_config(%s, %s, true)", (f"taskflow.{name}", password(folder, account))
            )
        await connection.execute(_ROLES.read_bytes())


def program(folder: Path, port: int) -> Program:
    """PostgreSQL on `port` with its data in `folder`/postgres; `folder` exists."""
    data = folder / "postgres"
    _check_data(data)
    uid = _account(data)
    privileges = () if uid is None else _privileges(uid, folder)
    options = {**_CONFIGURATION, "port": str(port)}
    return Program(
        name="postgres",
        about="passwords in *.password",
        command=(
            str(binaries.postgres("postgres")),
            *("-D", str(data)),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ),
        ready=lambda: _serves(folder, port),
        prepare=lambda: _prepare(folder, uid, privileges),
        ports={"POSTGRES_PORT": port},
        # Postgres must ignore the locale and password file of the user who starts the stack.
        environment={"LC_ALL": "C", "PGPASSFILE": os.devnull},
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGINT,
        stop_seconds=10.0,
        privileges=privileges,
    )


def _check_data(data: Path) -> None:
    if not data.exists():
        return
    advice = "Move the folder away to start empty, or restore its backup."
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise StackError(
            f"{data} is not a PostgreSQL data folder: PG_VERSION is missing. {advice}"
        ) from None
    except OSError as error:
        raise StackError(f"{data} can't be read: {error.strerror}.") from None
    if version != VERSION:
        raise StackError(f"{data} was made by PostgreSQL {version}, this is {VERSION}. {advice}")


def _account(data: Path) -> int | None:
    """The user id to run under when started by root: the owner of the data, or nobody. None keeps the current user."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    return owner or _UNPRIVILEGED


def _privileges(uid: int, folder: Path) -> tuple[str, ...]:
    """setpriv options for `uid`: the fewest privileges that reach the program and its data."""
    setpriv = binaries.setpriv()
    if setpriv is None:
        raise StackError(
            "PostgreSQL refuses to run as root, and setpriv (package util-linux) is missing to change the account. "
            "Install it, or start TaskFlow as a normal user."
        )
    plain = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    server = str(binaries.postgres("postgres"))
    for options in (plain, plain + _PASS_FOLDERS):
        check = ("/bin/sh", "-c", 'test -x "$0" && test -x "$1"', server, str(folder))
        command = [setpriv, *options, "--", *check]
        if subprocess.run(command, capture_output=True, cwd="/", check=False).returncode == 0:
            return options
    raise StackError(
        f"PostgreSQL refuses to run as root, and the unprivileged account {uid} can't enter {folder} or "
        f"{server}. Start TaskFlow as a normal user, or move it to a folder that every user may enter."
    )


async def _prepare(folder: Path, uid: int | None, privileges: tuple[str, ...]) -> None:
    data = folder / "postgres"
    if not data.exists():
        await _init(folder, uid, privileges)
    _forget_dead_postmaster(data / "postmaster.pid")


async def _init(folder: Path, uid: int | None, privileges: tuple[str, ...]) -> None:
    """Make a new cluster in a temporary folder, and move it into place when complete: none is used half-made."""
    new = folder / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    secret = folder / "postgres.new.password"
    secret.write_text("")
    secret.chmod(0o600)
    secret.write_text(password(folder))
    if uid is not None:
        os.chown(new, uid, uid)
        os.chown(secret, uid, uid)
    initdb = Program(
        name="initdb",
        command=(
            str(binaries.postgres("initdb")),
            *("--pgdata", str(new), "--username", SUPERUSER, "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions"),
            # Built-in locale: the same order and case rules on every machine, whatever the system has installed.
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
        ),
        privileges=privileges,
    )
    process = await asyncio.create_subprocess_exec(
        *child_command(initdb),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "LC_ALL": "C"},
        cwd="/",
        start_new_session=True,
    )
    output, _ = await process.communicate()
    secret.unlink()
    if process.returncode != 0:
        raise StackError(
            f"PostgreSQL can't create its data in {new}:\n{output.decode(errors='replace')}"
        )
    new.rename(folder / "postgres")


def _forget_dead_postmaster(file: Path) -> None:
    """Remove the pid file of a server that has ended.

    Postgres does so itself, unless another program has the pid now, which happens when a container restarts.
    """
    try:
        pid = int(file.read_text().split("\n", 1)[0])
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return
    if name != "postgres":
        file.unlink()


async def _serves(folder: Path, port: int) -> bool:
    """Whether the server answers. Creates the database and its accounts if they don't exist."""
    try:
        async with await psycopg.AsyncConnection.connect(
            url(folder, port, database="postgres"), autocommit=True, connect_timeout=2
        ) as connection:
            found = await connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
            )
            if await found.fetchone() is None:
                await connection.execute(
                    sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE))
                )
        await make_roles(folder, port)
    except psycopg.OperationalError:
        return False
    return True
