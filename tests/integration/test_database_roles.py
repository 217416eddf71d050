"""Promises about the accounts in PostgreSQL: services read and write rows, and nothing else."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from deploy.backup.make import make
from deploy.local import binaries, postgres
from deploy.local.ports import free_ports
from services.migrations import HEAD
from services.migrations.upgrade import upgrade
from services.platform.config import Settings
from tests.conftest import superuser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A connection as the services have it."""
    async with await psycopg.AsyncConnection.connect(
        settings.postgres, autocommit=True
    ) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine (id int)",
        "CREATE TABLE task.mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE task.tasks ADD COLUMN mine int",
        "CREATE INDEX mine ON task.tasks (id)",
        "DROP TABLE task.tasks",
        "TRUNCATE task.tasks",
        "ALTER ROLE taskflow_app SUPERUSER",
        "SET ROLE taskflow_owner",
        "COPY task.tasks TO '/tmp/stolen'",
        "COPY task.tasks FROM PROGRAM 'id'",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT rolpassword FROM pg_authid",
        "SET session_replication_role = replica",
    ],
)
async def test_the_services_account_can_neither_change_tables_nor_reach_beyond_them(
    app: psycopg.AsyncConnection[tuple[object, ...]], statement: LiteralString
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await app.execute(statement)


@pytest.mark.parametrize("account", [postgres.OWNER, postgres.APP])
async def test_neither_account_has_a_power_over_the_server(
    app: psycopg.AsyncConnection[tuple[object, ...]], account: str
) -> None:
    cursor = await app.execute(
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        " FROM pg_roles WHERE rolname = %s",
        (account,),
    )
    assert await cursor.fetchone() == (False,) * 5


async def test_every_table_belongs_to_the_owner_and_the_services_use_them_all(
    app: psycopg.AsyncConnection[tuple[object, ...]],
) -> None:
    cursor = await app.execute(
        "SELECT tablename, tableowner,"
        " has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT, INSERT, UPDATE, DELETE')"
        " FROM pg_tables WHERE schemaname IN ('platform', 'auth', 'task', 'notification')"
    )
    tables = await cursor.fetchall()
    assert len(tables) > 10
    assert {(owner, used) for _, owner, used in tables} == {(postgres.OWNER, True)}


async def test_a_database_of_a_single_account_is_handed_over(settings: Settings) -> None:
    """As in a data folder of an earlier version, where the services were the superuser."""
    name = "of_one_account"
    await _run(superuser(settings), sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    before = superuser(settings, name)
    try:
        upgrade(Settings(data_dir=settings.data_dir, database_url=SecretStr(before)))
        await _run(
            before,
            sql.SQL(
                "INSERT INTO auth.workspaces (id, display_name, ai_enabled) VALUES ({}, 'W', false)"
            ).format(_ID),
        )
        for _ in range(2):
            await postgres.make_roles(settings.data_dir, settings.postgres_port, name)
        folder, port = settings.data_dir, settings.postgres_port
        as_owner = postgres.url(folder, port, postgres.OWNER, name)
        upgrade(Settings(data_dir=folder, database_url=SecretStr(as_owner)))
        await _run(as_owner, sql.SQL("ALTER TABLE auth.workspaces ADD COLUMN more int"))
        as_app = postgres.url(folder, port, postgres.APP, name)
        await _run(
            as_app,
            sql.SQL("UPDATE auth.workspaces SET display_name = 'V' WHERE id = {}").format(_ID),
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await _run(as_app, sql.SQL("DROP TABLE auth.workspaces"))
    finally:
        await _run(
            superuser(settings),
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)),
        )


_ID = sql.Literal("0193a1f0-0000-7000-8000-000000000000")


async def _run(url: str, statement: sql.SQL | sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def test_the_script_of_the_postgres_container_makes_both_accounts(settings: Settings) -> None:
    """It runs here with the passwords that the accounts have, as it does for a database that is older than they."""
    folder, port = settings.data_dir, settings.postgres_port
    environment = os.environ | {
        "PATH": f"{binaries.postgres('psql').parent}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGPASSWORD": postgres.password(folder),
        "OWNER_PASSWORD": postgres.password(folder, postgres.OWNER),
        "APP_PASSWORD": postgres.password(folder, postgres.APP),
        "ROLES_SQL": str(ROOT / "deploy" / "postgres" / "roles.sql"),
    }
    script = str(ROOT / "deploy" / "container" / "roles.sh")
    process = await asyncio.create_subprocess_exec("sh", script, env=environment)
    assert await process.wait() == 0
    for account in (postgres.OWNER, postgres.APP):
        await _run(postgres.url(folder, port, account), sql.SQL("SELECT 1"))


async def test_migrations_and_backups_find_the_server_among_several_hosts(
    settings: Settings, tmp_path: Path
) -> None:
    (nobody,) = free_ports(1)
    port = settings.postgres_port

    def several(url: str) -> SecretStr:
        hosts = f"@127.0.0.1:{nobody},127.0.0.1:{port}/"
        return SecretStr(url.replace("ql://", "://").replace(f"@127.0.0.1:{port}/", hosts))

    there = Settings(
        data_dir=tmp_path / "elsewhere",
        database_url=several(settings.postgres),
        database_owner_url=several(settings.postgres_owner),
    )
    assert there.postgres.startswith("postgres://taskflow_app:")
    await asyncio.to_thread(upgrade, there)
    manifest = await make(there, tmp_path / "backup", print)
    assert manifest.schema == HEAD
