"""Promises about creates that share a batch: a fault of one row, or of one number, is no other call's."""

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
from services.platform.db import Statement
from taskflow.task.v1.project_pb2 import Project
from tests.integration.desk import Desk, People, Task, desk_at, people_of, struct
from tests.integration.people import Refusal, read_refusal, refusal

_Code = grpc.StatusCode

_SET_COUNTER = Statement(text("UPDATE task.projects SET next_number = :number WHERE id = :id"))
_COUNTER = Statement(text("SELECT next_number FROM task.projects WHERE id = :id"))
_TITLED = Statement(text("SELECT number FROM task.tasks WHERE project_id = :id AND title = :title"))

_NUMBERS_TAKEN: LiteralString = "AFTER UPDATE OF next_number ON task.projects"
_TASK_ADDED: LiteralString = "BEFORE INSERT ON task.tasks"
# Plays another process that carried the number, which a batch takes now, over a crash of Postgres: a task with it is
# committed before the batch adds its own.
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
async def desk(services: Settings, people: People) -> AsyncIterator[Desk]:
    async with desk_at(services, people) as desk:
        yield desk


@asynccontextmanager
async def trigger(
    settings: Settings, event: LiteralString, project: Project, body: LiteralString
) -> AsyncIterator[None]:
    """While the block runs, Postgres runs `body` at each `event` of one project."""
    column: LiteralString = "id" if event == _NUMBERS_TAKEN else "project_id"
    create = sql.SQL(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        # In a template, braces stand for themselves when they are doubled.
        + body.replace("{}", "{{}}")
        + " RETURN NEW; END$$; CREATE TRIGGER {name} "
        + event
        + " FOR EACH ROW WHEN (NEW."
        + column
        + " = {project}) EXECUTE FUNCTION {name}()"
    )
    name = sql.Identifier(f"fault_{uuid4().hex}")
    async with await psycopg.AsyncConnection.connect(
        settings.postgres, autocommit=True
    ) as connection:
        await connection.execute(create.format(name=name, project=sql.Literal(project.id)))
        try:
            yield
        finally:
            await connection.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(name))


def numbers(tasks: list[Task]) -> set[int]:
    return {int(task.key.removeprefix("OPS-")) for task in tasks}


async def ends(desk: Desk, project: Project, titles: list[str]) -> dict[str, Task | Refusal]:
    """How creates end that are asked for at once, by their titles."""

    async def end(title: str) -> Task | Refusal:
        try:
            return await desk.create(project, title=title)
        except grpc.aio.AioRpcError as error:
            return read_refusal(error)

    answers = await asyncio.gather(*(end(title) for title in titles))
    return dict(zip(titles, answers, strict=True))


async def test_no_call_notices_that_a_number_of_its_batch_was_used_already(
    desk: Desk, services: Settings
) -> None:
    project = await desk.project()
    repeated = str(uuid4())
    async with trigger(services, _NUMBERS_TAKEN, project, _USE_NUMBER_OF_FIRST_BATCH):
        *tasks, first, again = await asyncio.gather(
            *(desk.create(project, title=f"Task {n}") for n in range(30)),
            desk.create(project, payload=struct({"message": "hi"})),
            desk.create(project, request_id=repeated),
            desk.create(project, request_id=repeated),
        )
    assert first == again
    async with desk.db.read() as tx:
        theirs = await tx.all(_TITLED, id=UUID(project.id), title="Theirs")
        counter = await tx.one(_COUNTER, id=UUID(project.id))
    assert len(theirs) == 1
    found = numbers([*tasks, first])
    assert len(found) == 32
    assert theirs[0].number not in found
    assert counter
    assert counter.next_number > max(found)
    # One task for each call, and the other process's.
    assert len(await desk.all(project.workspace_id, page_size=100)) == 33


@pytest.mark.parametrize("payload", [None, {"message": "hi"}])
async def test_a_create_whose_every_number_is_used_is_told_to_try_again(
    desk: Desk, services: Settings, payload: dict[str, str] | None
) -> None:
    project, other = await desk.project(), await desk.project()
    fields: dict[str, Any] = {} if payload is None else {"payload": struct(payload)}
    async with trigger(services, _NUMBERS_TAKEN, project, _USE_NUMBER):
        refusing = asyncio.create_task(refusal(desk.create(project, title="Ours", **fields)))
        tasks = await asyncio.gather(*(desk.create(other) for _ in range(10)))
        refused = await refusing
    assert (refused.code, refused.reason) == (_Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert refused.retry_after
    assert len(numbers(tasks)) == 10
    async with desk.db.read() as tx:
        assert not await tx.all(_TITLED, id=UUID(project.id), title="Ours")
        # The number of tries has a limit.
        assert len(await tx.all(_TITLED, id=UUID(project.id), title="Theirs")) < 10


async def test_a_counter_that_lost_numbers_gives_out_none_that_a_task_has(desk: Desk) -> None:
    project = await desk.project()
    before = await asyncio.gather(*(desk.create(project) for _ in range(30)))
    async with desk.db.single() as tx:
        await tx.run(_SET_COUNTER, id=UUID(project.id), number=3)
    after = await asyncio.gather(*(desk.create(project) for _ in range(30)))
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
async def test_a_row_that_postgres_refuses_fails_its_own_call_only(
    desk: Desk, services: Settings, sqlstate: LiteralString, code: grpc.StatusCode
) -> None:
    project = await desk.project()
    refuse: LiteralString = (
        "IF NEW.title = 'Bad' THEN RAISE 'refused' USING ERRCODE = '" + sqlstate + "'; END IF;"
    )
    titles = [f"Task {n}" for n in range(20)]
    async with trigger(services, _TASK_ADDED, project, refuse):
        found = await ends(desk, project, [*titles[:10], "Bad", *titles[10:]])
    bad = found.pop("Bad")
    assert isinstance(bad, Refusal)
    assert bad.code is code
    tasks = [task for task in found.values() if isinstance(task, Task)]
    assert sorted(task.title for task in tasks) == sorted(titles)
    assert len(await desk.all(project.workspace_id)) == 20


async def test_a_connection_lost_within_a_batch_is_unavailable_to_its_calls(
    desk: Desk, services: Settings
) -> None:
    project = await desk.project()
    lose: LiteralString = (
        "IF NEW.title = 'Last' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;"
    )
    async with trigger(services, _TASK_ADDED, project, lose):
        found = await ends(desk, project, [*(f"Task {n}" for n in range(10)), "Last"])
        failed = [end for end in found.values() if isinstance(end, Refusal)]
        assert {(end.code, end.reason) for end in failed} == {
            (_Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        }
        assert isinstance(found["Last"], Refusal)
        assert len(await ends(desk, project, ["Next", "One more"])) == 2
    assert await desk.create(project)


async def test_a_number_is_used_on_the_connection_that_took_it(
    desk: Desk, services: Settings
) -> None:
    # A crash of Postgres that loses the number ends the connection too.
    project = await desk.project()
    async with (
        trigger(services, _NUMBERS_TAKEN, project, _NOTE_NUMBERS),
        trigger(services, _TASK_ADDED, project, _CHECK_NUMBER),
    ):
        for _ in range(5):
            await asyncio.gather(
                *(desk.create(project) for _ in range(10)),
                *(desk.create(project, payload=struct({"message": "hi"})) for _ in range(3)),
            )
