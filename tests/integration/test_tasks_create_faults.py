"""Promises about creates that share a batch: a faulty row or number affects no other call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID, uuid4

import grpc
import grpc.aio
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from services.platform.config import Settings
from services.platform.data.db import Statement
from taskflow.task.v1.project_pb2 import Project
from tests.integration.people import Refusal, read_refusal, refusal
from tests.integration.roles_world import (
    People,
    RolesWorld,
    Task,
    people_of,
    roles_world_at,
    struct,
)

_Code = grpc.StatusCode

_SET_COUNTER = Statement(text("UPDATE task.projects SET next_number = :number WHERE id = :id"))
_COUNTER = Statement(text("SELECT next_number FROM task.projects WHERE id = :id"))
_TITLED = Statement(text("SELECT number FROM task.tasks WHERE project_id = :id AND title = :title"))

_NUMBERS_TAKEN: LiteralString = "AFTER UPDATE OF next_number ON task.projects"
_TASK_ADDED: LiteralString = "BEFORE INSERT ON task.tasks"
# Simulates another process that kept a reserved number across a Postgres crash: it commits a task with the number that
# the batch has just reserved.
_USE_NUMBER: LiteralString = """
    INSERT INTO task.tasks (id, workspace_id, project_id, project_key, number, title, description, status, priority,
      creator_id, labels, created_at, updated_at)
    VALUES (gen_random_uuid(), NEW.workspace_id, NEW.id, NEW.key, OLD.next_number, 'Theirs', '', 1, 0,
      NEW.creator_id, '{}', now(), now());
"""
_USE_NUMBER_OF_FIRST_BATCH = f"""
    IF NEW.next_number - OLD.next_number > 1
      AND NOT EXISTS (SELECT FROM task.tasks WHERE project_id = NEW.id AND title = 'Theirs')
    THEN {_USE_NUMBER} END IF;
"""
_NOTE_NUMBERS: LiteralString = """
    PERFORM set_config('test.taken', int8range(OLD.next_number, NEW.next_number)::text, false);
"""
_CHECK_NUMBER: LiteralString = """
    IF NOT coalesce(NEW.number <@ nullif(current_setting('test.taken', true), '')::int8range, false)
    THEN RAISE 'this connection did not take number %', NEW.number; END IF;
"""


@pytest.fixture(scope="module")
async def people(services: Settings) -> People:
    return await people_of(services)


@pytest.fixture
async def world(services: Settings, people: People) -> AsyncIterator[RolesWorld]:
    async with roles_world_at(services, people) as world:
        yield world


@asynccontextmanager
async def trigger(
    settings: Settings, event: LiteralString, project: Project, body: LiteralString
) -> AsyncIterator[None]:
    """While the block runs, a Postgres trigger runs `body` at each `event` of one project."""
    column: LiteralString = "id" if event == _NUMBERS_TAKEN else "project_id"
    create = sql.SQL(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        # In a template, literal braces are doubled.
        + body.replace("{}", "{{}}")
        + " RETURN NEW; END$$; CREATE TRIGGER {name} "
        + event
        + " FOR EACH ROW WHEN (NEW."
        + column
        + " = {project}) EXECUTE FUNCTION {name}()"
    )
    name = sql.Identifier(f"fault_{uuid4().hex}")
    async with await psycopg.AsyncConnection.connect(
        settings.postgres_owner, autocommit=True
    ) as connection:
        await connection.execute(create.format(name=name, project=sql.Literal(project.id)))
        try:
            yield
        finally:
            await connection.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(name))


def numbers(tasks: list[Task]) -> set[int]:
    return {int(task.key.removeprefix("OPS-")) for task in tasks}


async def ends(world: RolesWorld, project: Project, titles: list[str]) -> dict[str, Task | Refusal]:
    """The results of concurrent creates, by their titles."""

    async def end(title: str) -> Task | Refusal:
        try:
            return await world.create(project, title=title)
        except grpc.aio.AioRpcError as error:
            return read_refusal(error)

    answers = await asyncio.gather(*(end(title) for title in titles))
    return dict(zip(titles, answers, strict=True))


async def test_creates_succeed_although_a_number_of_their_batch_was_already_used(
    world: RolesWorld, services: Settings
) -> None:
    project = await world.project()
    repeated = str(uuid4())
    async with trigger(services, _NUMBERS_TAKEN, project, _USE_NUMBER_OF_FIRST_BATCH):
        *tasks, first, again = await asyncio.gather(
            *(world.create(project, title=f"Task {n}") for n in range(30)),
            world.create(project, payload=struct({"message": "hi"})),
            world.create(project, request_id=repeated),
            world.create(project, request_id=repeated),
        )
    assert first == again
    async with world.db.read() as tx:
        theirs = await tx.all(_TITLED, id=UUID(project.id), title="Theirs")
        counter = await tx.one(_COUNTER, id=UUID(project.id))
    assert len(theirs) == 1
    found = numbers([*tasks, first])
    assert len(found) == 32
    assert theirs[0].number not in found
    assert counter
    assert counter.next_number > max(found)
    # The project has one task per call, and the other process's task.
    assert len(await world.all(project.workspace_id, page_size=100)) == 33


@pytest.mark.parametrize("payload", [None, {"message": "hi"}])
async def test_a_create_that_finds_no_free_number_gets_a_retryable_error(
    world: RolesWorld, services: Settings, payload: dict[str, str] | None
) -> None:
    project, other = await world.project(), await world.project()
    fields: dict[str, Any] = {} if payload is None else {"payload": struct(payload)}
    async with trigger(services, _NUMBERS_TAKEN, project, _USE_NUMBER):
        refusing = asyncio.create_task(refusal(world.create(project, title="Ours", **fields)))
        tasks = await asyncio.gather(*(world.create(other) for _ in range(10)))
        refused = await refusing
    assert (refused.code, refused.reason) == (_Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert refused.retry_after
    assert len(numbers(tasks)) == 10
    async with world.db.read() as tx:
        assert not await tx.all(_TITLED, id=UUID(project.id), title="Ours")
        # The service retries a limited number of times.
        assert len(await tx.all(_TITLED, id=UUID(project.id), title="Theirs")) < 10


async def test_a_counter_that_lost_numbers_never_issues_a_used_one(
    world: RolesWorld,
) -> None:
    project = await world.project()
    before = await asyncio.gather(*(world.create(project) for _ in range(30)))
    async with world.db.autocommit() as tx:
        await tx.run(_SET_COUNTER, id=UUID(project.id), number=3)
    after = await asyncio.gather(*(world.create(project) for _ in range(30)))
    assert len(numbers(before) | numbers(after)) == 60
    assert min(numbers(after)) > max(numbers(before))


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        ("22000", _Code.INTERNAL),
        ("23514", _Code.INTERNAL),
        ("54000", _Code.INTERNAL),
        ("23505", _Code.UNAVAILABLE),
        ("40001", _Code.UNAVAILABLE),
        ("40P01", _Code.UNAVAILABLE),
        ("55P03", _Code.UNAVAILABLE),
        ("57014", _Code.UNAVAILABLE),
    ],
)
async def test_a_row_that_postgres_rejects_fails_only_its_own_call(
    world: RolesWorld, services: Settings, sqlstate: LiteralString, code: grpc.StatusCode
) -> None:
    project = await world.project()
    refuse: LiteralString = (
        "IF NEW.title = 'Bad' THEN RAISE 'refused' USING ERRCODE = '" + sqlstate + "'; END IF;"
    )
    titles = [f"Task {n}" for n in range(20)]
    async with trigger(services, _TASK_ADDED, project, refuse):
        found = await ends(world, project, [*titles[:10], "Bad", *titles[10:]])
    bad = found.pop("Bad")
    assert isinstance(bad, Refusal)
    assert bad.code is code
    tasks = [task for task in found.values() if isinstance(task, Task)]
    assert sorted(task.title for task in tasks) == sorted(titles)
    assert len(await world.all(project.workspace_id)) == 20


async def test_a_connection_lost_within_a_batch_is_unavailable_to_its_calls(
    world: RolesWorld, services: Settings
) -> None:
    project = await world.project()
    lose: LiteralString = (
        "IF NEW.title = 'Last' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
    )
    async with trigger(services, _TASK_ADDED, project, lose):
        found = await ends(world, project, [*(f"Task {n}" for n in range(10)), "Last"])
        failed = [end for end in found.values() if isinstance(end, Refusal)]
        assert {(end.code, end.reason) for end in failed} == {
            (_Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        }
        assert isinstance(found["Last"], Refusal)
        assert len(await ends(world, project, ["Next", "One more"])) == 2
    assert await world.create(project)


async def test_a_number_is_used_on_the_connection_that_reserved_it(
    world: RolesWorld, services: Settings
) -> None:
    # A Postgres crash that loses the number also ends the connection.
    project = await world.project()
    async with (
        trigger(services, _NUMBERS_TAKEN, project, _NOTE_NUMBERS),
        trigger(services, _TASK_ADDED, project, _CHECK_NUMBER),
    ):
        for _ in range(5):
            await asyncio.gather(
                *(world.create(project) for _ in range(10)),
                *(world.create(project, payload=struct({"message": "hi"})) for _ in range(3)),
            )
