"""Reads files of tasks. The cells that the CLI itself has to understand are checked here, all others by the server."""

import csv
import hashlib
import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict, ParseError

from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from taskflow_client.cli import choices, enums, payloads
from taskflow_client.cli.command import Problem, usage
from taskflow_client.cli.deadlines import format_due, parse_due

COLUMNS = (
    *("title", "description", "project", "assignee", "priority", "status", "labels", "due"),
    "payload",
)

# The fields of a task in the JSON output of other commands; an import ignores those that aren't columns.
_TASK_FIELDS = frozenset(field.name for field in Task.DESCRIPTOR.fields)
_BLANKS = re.compile(r"[ _]+")
_SEPARATOR = re.compile(r"[,;|]")
# Cells that a JSON file may hold as something else than a text.
_STRUCTURED: dict[str, type] = {"labels": list, "payload": dict}

# Namespace of the derived request ids: a row with the same cells always gets the same id.
_NAMESPACE = uuid.UUID("3f1a0c3e-5a0e-5d0f-9a44-6f1d6c6e2b57")


class BadCell(NamedTuple):
    """An invalid cell. Rows are counted as in a spreadsheet: a CSV's header is row 1."""

    row: int
    column: str
    problem: str


class Row(NamedTuple):
    """A row of the file: its number, and its cells by column. JSON rows may hold labels as a list."""

    number: int
    cells: Mapping[str, Any]


class Import(NamedTuple):
    """A request to create a task, and the number of its row."""

    row: int
    request: CreateTaskRequest


@dataclass(frozen=True)
class Context:
    """The workspace's projects and members, and the defaults for cells."""

    workspace_id: str
    projects: Mapping[str, Project]  # by key
    members: Mapping[str, str]  # ids by case-folded e-mail, and by "me"
    default_project: str  # key; empty for none
    now: datetime
    zone: str
    bad: list[BadCell] = field(default_factory=list)


def read(path: Path, ignore_unknown: bool = False) -> list[Row]:
    """Returns the rows of the file. With `ignore_unknown`, leaves out the columns that an import doesn't know."""
    text = payloads.read(path)
    kind = path.suffix.lower()
    if kind not in (".csv", ".json"):
        raise usage(f"{path} is neither .csv nor .json")
    rows = _read_json(text, path) if kind == ".json" else _read_csv(text, path)
    if not rows:
        raise usage(f"{path} holds no tasks")
    unknown = {name: None for row in rows for name in row.cells if name not in COLUMNS}
    if unknown and not ignore_unknown:
        few = "an unknown column" if len(unknown) == 1 else "unknown columns"
        raise usage(
            f"{path} has {few}: {', '.join(unknown)}",
            f"the columns are {', '.join(COLUMNS)}; --ignore-unknown leaves out others",
        )
    if not any("title" in row.cells for row in rows):
        raise usage(f"{path} has no column 'title'", f"the columns are {', '.join(COLUMNS)}")
    return rows


def check(rows: Iterable[Row], context: Context) -> list[Import]:
    """Returns the tasks to create. If context.bad lists invalid cells, create none of them.

    A request id depends on the cells of its row and on how many equal rows came before. So a repeated import creates
    only the rows that are new or were changed.
    """
    imports: list[Import] = []
    seen: Counter[str] = Counter()
    for row in rows:
        task, project = _task(row, context)
        content = f"{context.workspace_id}/{project.id}/{_digest(row)}"
        seen[content] += 1
        request_id = str(uuid.uuid5(_NAMESPACE, f"{content}/{seen[content]}"))
        request = CreateTaskRequest(project_id=project.id, task=task, request_id=request_id)
        imports.append(Import(row.number, request))
    return imports


def _digest(row: Row) -> str:
    cells = {name: value for name, value in row.cells.items() if name in COLUMNS and value}
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def _read_csv(text: str, path: Path) -> list[Row]:
    header, _, _ = text.partition("\n")
    # Spreadsheets write semicolons in locales with decimal commas.
    delimiter = ";" if ";" in header and "," not in header else ","
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise usage(f"{path} isn't CSV: {error}") from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise usage(f"{path} has the column {min(twice)!r} twice")
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if any(cell.strip() for cell in line[len(names) :]):
            raise usage(
                f"{path}, row {number} has {len(line)} cells, but there are {len(names)} columns"
            )
        cells = list(zip(names, line, strict=False))
        # Spreadsheets add columns without a name. They may be empty only.
        if any(cell.strip() for name, cell in cells if not name):
            raise usage(f"{path}, row {number} has a cell in a column without a name")
        rows.append(Row(number, {name: cell for name, cell in cells if name}))
    return rows


def _read_json(text: str, path: Path) -> list[Row]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise usage(f"{path} isn't JSON: {error}") from None
    items = value.get("tasks") if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise usage(
            f"{path} isn't a JSON array of objects", f"each with some of {', '.join(COLUMNS)}"
        )
    return [Row(number, _cells(item)) for number, item in enumerate(items, start=1)]


def _cells(item: dict[str, Any]) -> dict[str, Any]:
    """The cells of an object; those of a task as other commands print it, if it is one."""
    if not ({"key", "etag"} <= item.keys() <= _TASK_FIELDS):
        return item
    try:
        task = ParseDict(item, Task())
    except ParseError:
        return item
    cells: dict[str, Any] = {
        "title": task.title,
        "description": task.description,
        "project": task.key.partition("-")[0],
        "assignee": task.assignee_id,
        "priority": enums.priority_word(task.priority),
        "status": enums.status_word(task.status),
        "labels": list(task.labels),
        "due": format_due(task),
        "payload": item.get("payload"),
    }
    return cells


def _task(row: Row, context: Context) -> tuple[Task, Project]:
    task = Task()
    project = Project()

    def cell(column: str, apply: Callable[[Any], None]) -> None:
        value = row.cells.get(column)
        try:
            apply(value if isinstance(value, _STRUCTURED.get(column, ())) else _text(value))
        except ValueError as error:
            context.bad.append(BadCell(row.number, column, str(error)))

    def set_due(text: str) -> None:
        if text:
            task.due.CopyFrom(parse_due(text, context.now, context.zone))

    def set_payload(value: Any) -> None:
        if value:
            task.payload.CopyFrom(_payload(value))

    cell("title", lambda text: setattr(task, "title", text))
    cell("description", lambda text: setattr(task, "description", text))
    cell("project", lambda text: project.CopyFrom(_project(text, context)))
    cell("assignee", lambda text: setattr(task, "assignee_id", _assignee(text, context)))
    cell("priority", lambda text: setattr(task, "priority", _priority(text)))
    cell("status", lambda text: setattr(task, "status", _status(text)))
    cell("labels", lambda value: task.labels.extend(_labels(value)))
    cell("due", set_due)
    cell("payload", set_payload)
    return task, project


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{json.dumps(value)} isn't a text")
    return value.strip()


def _project(text: str, context: Context) -> Project:
    key = (text or context.default_project).upper()
    if not key:
        raise ValueError("the project is missing: fill in its key, or use --project")
    project = context.projects.get(key)
    if project is None:
        there = ", ".join(context.projects) or "none"
        raise ValueError(f"no project {key!r} in the workspace; there are: {there}")
    if project.HasField("archive_time"):
        raise ValueError(f"the project {key} is archived")
    return project


def _assignee(text: str, context: Context) -> str:
    if not text:
        return ""
    user_id = context.members.get(text.casefold())
    if user_id is None and text in context.members.values():
        user_id = text
    if user_id is None:
        raise ValueError(f"{text} isn't a member of the workspace")
    return user_id


def _priority(text: str) -> Any:
    return enums.priority(choices.Priority(_choice(text or "none", list(choices.Priority))))


def _status(text: str) -> Any:
    return enums.status(choices.Status(_choice(text or "todo", list(choices.Status))))


def _choice(text: str, allowed: list[Any]) -> str:
    word = _BLANKS.sub("-", text.lower())
    if word not in allowed:
        raise ValueError(f"{text!r} isn't one of {', '.join(allowed)}")
    return word


def _labels(value: Any) -> list[str]:
    """Returns labels from a list, or from a text separated by commas, semicolons or bars."""
    if isinstance(value, list):
        labels = [_text(label) for label in value]
    else:
        labels = [label.strip() for label in _SEPARATOR.split(value)]
    return list(dict.fromkeys(label for label in labels if label))


def _payload(value: str | dict[str, Any]) -> Any:
    try:
        return payloads.from_json(value if isinstance(value, str) else json.dumps(value))
    except Problem as problem:
        raise ValueError(problem.message) from None
