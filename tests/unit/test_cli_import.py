"""Task import files: what is accepted, and what is refused before anything is sent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.task_pb2 import TASK_PRIORITY_HIGH, TASK_STATUS_IN_PROGRESS, Task
from taskflow_client.cli import import_rows
from taskflow_client.cli.command import Problem
from taskflow_client.cli.deadlines import format_due, parse_due, parse_instant
from taskflow_client.cli.import_rows import BadCell, Context
from taskflow_client.cli.output import as_dict, json_text

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BEN = "01900000-0000-7000-8000-00000000000b"


def context(default: str = "OPS") -> Context:
    projects = {
        key: Project(id=f"id-{key}", key=key, workspace_id="w") for key in ("OPS", "WEB", "OLD")
    }
    projects["OLD"].archive_time.GetCurrentTime()
    return Context("w", projects, {"ben@example.com": BEN}, default, NOW, "Europe/Berlin")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return write


def check(path: Path, default: str = "OPS") -> tuple[list[Any], list[BadCell]]:
    looked_up = context(default)
    imports = import_rows.check(import_rows.read(path), looked_up)
    return [each.request for each in imports], looked_up.bad


FULL = {
    "title": "Grease the crane",
    "description": "All of it,\nplease",
    "project": "web",
    "assignee": "Ben@Example.com",
    "priority": "High",
    "status": "In progress",
    "labels": "yard; steel|steel",
    "due": "2026-12-01",
}


def as_csv(delimiter: str) -> str:
    quoted = [f'"{value}"' for value in FULL.values()]
    return f"{delimiter.join(FULL)}\r\n{delimiter.join(quoted)}\r\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", as_csv(",")),
        ("a.CSV", as_csv(";")),
        ("bom.csv", "\ufeff" + as_csv(",")),
        ("a.json", json.dumps([FULL])),
        ("list.json", json.dumps({"tasks": [FULL | {"labels": ["yard", "steel"]}]})),
    ],
)
def test_every_column_is_read_from_csv_and_json(
    file: Callable[[str, str], Path], name: str, content: str
) -> None:
    [request], bad = check(file(name, content))
    assert bad == []
    task = request.task
    assert request.project_id == "id-WEB"
    assert task.title == "Grease the crane"
    assert task.description.split() == ["All", "of", "it,", "please"]
    assert task.assignee_id == BEN
    assert task.priority == TASK_PRIORITY_HIGH
    assert task.status == TASK_STATUS_IN_PROGRESS
    assert list(task.labels) == ["yard", "steel"]
    assert format_due(task) == "2026-12-01"


def test_only_the_title_is_required(file: Callable[[str, str], Path]) -> None:
    [request], bad = check(file("a.csv", "title\nWait\n"))
    assert bad == []
    assert request.project_id == "id-OPS"
    assert request.task.title == "Wait"


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("project", "NOPE", "no project 'NOPE'"),
        ("project", "OLD", "archived"),
        ("assignee", "eve@example.com", "isn't a member"),
        ("priority", "highest", "isn't one of none, low, medium, high, urgent"),
        ("status", "doing", "isn't one of todo, in-progress, done, canceled"),
        ("due", "tomorrow", "isn't a deadline"),
        ("due", "2026-02-30", "isn't a day"),
        ("due", "2026-12-01T09:00 Europe/Nowhere", "isn't a time zone"),
        ("due", "2026-12-01T25:00 Europe/Berlin", "isn't a time"),
        ("due", "2026-12-01T09:00+02:00", "isn't a deadline"),
        ("due", "+999999w", "too far"),
        ("payload", "[1]", "isn't a JSON object"),
        ("payload", '{"id": [9007199254740993]}', "at id[0]"),
        ("payload", "@/etc/hostname", "isn't JSON"),
    ],
)
def test_a_bad_cell_is_reported_with_row_and_column(
    file: Callable[[str, str], Path], column: str, value: str, problem: str
) -> None:
    items = [{"title": "fine"}, {"title": "also fine"} | {column: value}]
    _, bad = check(file("a.json", json.dumps(items)))
    assert [(cell.row, cell.column) for cell in bad] == [(2, column)]
    assert problem in bad[0].problem


def test_csv_rows_are_numbered_as_in_a_spreadsheet(
    file: Callable[[str, str], Path],
) -> None:
    content = 'title,description,due\nfine,"two\nlines",\n\n,"bad",never\n'
    _, bad = check(file("a.csv", content))
    assert [cell.row for cell in bad] == [4]


def test_all_bad_cells_are_reported_at_once(file: Callable[[str, str], Path]) -> None:
    items = [{"due": "x", "status": "x"}, {"title": 7}, {"title": "a", "labels": [1]}]
    _, bad = check(file("a.json", json.dumps(items)))
    assert [(cell.row, cell.column) for cell in bad] == [
        (1, "status"),
        (1, "due"),
        (2, "title"),
        (3, "labels"),
    ]


def test_a_row_without_a_project_needs_a_default(file: Callable[[str, str], Path]) -> None:
    _, bad = check(file("a.csv", "title\nWait\n"), default="")
    assert "the project is missing" in bad[0].problem


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "title\nx\n", "neither"),
        ("a.csv", "", "holds no tasks"),
        ("a.csv", "title\n", "holds no tasks"),
        ("a.csv", "title,prio,due,tag\nx,y,,z\n", "unknown columns: prio, tag"),
        ("a.csv", "title,,\na,,b\n", "row 2 has a cell in a column without a name"),
        ("a.csv", "title,title\nx,y\n", "twice"),
        ("a.csv", "description\nx\n", "no column 'title'"),
        ("a.csv", "title,due\na,b,c\n", "row 2 has 3 cells"),
        ("a.csv", 'title\n"open\n', "isn't CSV"),
        ("a.json", "{", "isn't JSON"),
        ("a.json", "[1]", "array of objects"),
        ("a.json", '"x"', "array of objects"),
        ("a.json", "[]", "holds no tasks"),
        ("a.json", '[{"titel": "x"}]', "unknown column: titel"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(
    file: Callable[[str, str], Path], name: str, content: str, problem: str
) -> None:
    with pytest.raises(Problem, match=problem) as caught:
        import_rows.read(file(name, content))
    assert caught.value.exit_code == 2


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("title\nGr\u00fc\u00dfe\n".encode("latin-1"))
    with pytest.raises(Problem, match="UTF-8"):
        import_rows.read(path)


def test_a_row_keeps_its_request_id_when_other_rows_change(
    file: Callable[[str, str], Path],
) -> None:
    def ids(content: str, **more: str) -> list[str]:
        requests, bad = check(file("a.csv", content), **more)
        assert bad == []
        return [each.request_id for each in requests]

    first = ids("title,due\nx,\nx,\ny,2030-01-01\n")
    assert len(set(first)) == 3
    assert ids("title,due\ny,2030-01-01\nnew,\nx,\nx,\n")[0] == first[2]
    assert set(ids("due,title\n,x\n2030-01-01,y\n,x\n")) == set(first)
    assert not set(first) & set(ids("title,due\nz,\n"))
    assert not set(first) & set(ids("title\nx\n", default="WEB"))


def test_a_file_may_have_empty_columns_without_a_name_and_ignored_ones(
    file: Callable[[str, str], Path],
) -> None:
    [row] = import_rows.read(file("a.csv", "title,,\nx,,,\n"))
    assert row.cells == {"title": "x"}
    found = import_rows.read(file("b.csv", "title,prio\nx,y\n"), ignore_unknown=True)
    [made] = import_rows.check(found, context())
    assert made.request.task.title == "x"


def test_the_json_output_of_other_commands_can_be_imported(
    file: Callable[[str, str], Path],
) -> None:
    task = Task(
        id="t",
        key="WEB-7",
        etag="1",
        title="Grease the crane",
        priority=TASK_PRIORITY_HIGH,
        status=TASK_STATUS_IN_PROGRESS,
        assignee_id=BEN,
        labels=["a,b"],
        due=parse_due("2026-12-01T09:00 Europe/Berlin", NOW),
    )
    task.payload.update({"message": "hi"})
    [request], bad = check(file("own.json", json_text([as_dict(task)])))
    assert bad == []
    assert request.project_id == "id-WEB"
    wanted = Task(labels=["a,b"], title=task.title, due=task.due, payload=task.payload)
    wanted.priority, wanted.status, wanted.assignee_id = task.priority, task.status, BEN
    assert request.task == wanted


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2026-12-01", "2026-12-01"),
        ("2026-12-01T09:00 Europe/Berlin", "2026-12-01 09:00 Europe/Berlin"),
        ("2026-12-01 09:00:30 America/New_York", "2026-12-01 09:00:30 America/New_York"),
        ("2026-12-01T09:00Z", "2026-12-01 09:00 UTC"),
        ("2026-12-01T09:00", "2026-12-01 09:00 Europe/Berlin"),
        ("+45s", "2026-11-22 13:00:45 Europe/Berlin"),
        ("+90m", "2026-11-22 14:30 Europe/Berlin"),
        ("+2h", "2026-11-22 15:00 Europe/Berlin"),
        ("+3d", "2026-11-25 13:00 Europe/Berlin"),
        ("+1w", "2026-11-29 13:00 Europe/Berlin"),
    ],
)
def test_deadlines_are_read_in_every_accepted_spelling(text: str, meaning: str) -> None:
    assert format_due(Task(due=parse_due(text, NOW, "Europe/Berlin"))) == meaning


def test_a_day_from_now_is_the_same_time_of_day_when_clocks_change() -> None:
    before = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    due = {
        text: format_due(Task(due=parse_due(text, before, "Europe/Berlin")))
        for text in ("+1d", "+24h")
    }
    assert due == {
        "+1d": "2026-10-25 14:00 Europe/Berlin",
        "+24h": "2026-10-25 13:00 Europe/Berlin",
    }


def test_a_local_time_without_any_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time zone"):
        parse_due("2026-12-01T09:00", NOW)


def test_a_date_used_as_a_bound_means_midnight_in_the_users_zone() -> None:
    assert parse_instant("2026-07-01", "Europe/Berlin").ToJsonString() == "2026-06-30T22:00:00Z"
