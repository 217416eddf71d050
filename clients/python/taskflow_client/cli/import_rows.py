"""Reads files of tasks, and checks all rows before the import sends any."""

import csv
import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from taskflow.task.v1.project_pb2 import Project
from taskflow.task.v1.task_pb2 import Task
from taskflow.task.v1.task_service_pb2 import CreateTaskRequest
from taskflow_client.cli import choices, enums
from taskflow_client.cli.command import usage
from taskflow_client.cli.deadlines import parse_due

COLUMNS = ("title", "description", "project", "assignee", "priority", "status", "labels", "due")

# The limits in task.proto.
_TITLE_LENGTH = 255
_DESCRIPTION_LENGTH = 20_000
_LABELS = 20
_LABEL_LENGTH = 64
_BLANKS = re.compile(r"[ _]+")
_SEPARATOR = re.compile(r"[,;|]")
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

# Namespace of the derived request ids: the same file always yields the same ids.
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


def read(path: Path) -> tuple[str, list[Row]]:
    """Returns a digest of the file's content, and its rows."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise usage(f"{path} isn't UTF-8", "save it again with the encoding UTF-8") from None
    kind = path.suffix.lower()
    if kind not in (".csv", ".json"):
        raise usage(f"{path} is neither .csv nor .json")
    rows = _read_json(text, path) if kind == ".json" else _read_csv(text, path)
    if not rows:
        raise usage(f"{path} holds no tasks")
    return hashlib.sha256(content).hexdigest(), rows


def check(digest: str, rows: Iterable[Row], context: Context) -> list[Import]:
    """Returns the tasks to create. If context.bad lists invalid cells, create none of them."""
    imports: list[Import] = []
    for row in rows:
        task, project = _task(row, context)
        key = f"{context.workspace_id}/{project.id}/{digest}/{row.number}"
        request_id = str(uuid.uuid5(_NAMESPACE, key))
        request = CreateTaskRequest(project_id=project.id, task=task, request_id=request_id)
        imports.append(Import(row.number, request))
    return imports


def _read_csv(text: str, path: Path) -> list[Row]:
    header, _, _ = text.partition("\n")
    # Spreadsheets write semicolons in locales with decimal commas.
    delimiter = ";" if ";" in header and "," not in header else ","
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise usage(f"{path} isn't CSV: {error}") from None
    names = [name.strip().lower() for name in lines[0]] if lines else []
    _check_columns(names, path)
    rows: list[Row] = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) > len(names):
            raise usage(
                f"{path}, row {number} has {len(line)} cells, but there are {len(names)} columns"
            )
        rows.append(Row(number, dict(zip(names, line, strict=False))))
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
    for item in items:
        _check_columns([*item], path, required=())
    return [Row(number, item) for number, item in enumerate(items, start=1)]


def _check_columns(names: list[str], path: Path, required: tuple[str, ...] = ("title",)) -> None:
    hint = f"the columns are {', '.join(COLUMNS)}"
    if unknown := [name for name in names if name not in COLUMNS]:
        raise usage(f"{path} has an unknown column {unknown[0]!r}", hint)
    if twice := {name for name in names if names.count(name) > 1}:
        raise usage(f"{path} has the column {min(twice)!r} twice", hint)
    if absent := [name for name in required if name not in names]:
        raise usage(f"{path} has no column {absent[0]!r}", hint)


def _task(row: Row, context: Context) -> tuple[Task, Project]:
    task = Task()
    project = Project()

    def cell(column: str, apply: Callable[[Any], None]) -> None:
        value = row.cells.get(column)
        try:
            apply(value if isinstance(value, list) and column == "labels" else _text(value))
        except ValueError as error:
            context.bad.append(BadCell(row.number, column, str(error)))

    def set_due(text: str) -> None:
        if text:
            task.due.CopyFrom(parse_due(text, context.now, context.zone))

    cell("title", lambda text: setattr(task, "title", _title(text)))
    cell("description", lambda text: setattr(task, "description", _description(text)))
    cell("project", lambda text: project.CopyFrom(_project(text, context)))
    cell("assignee", lambda text: setattr(task, "assignee_id", _assignee(text, context)))
    cell("priority", lambda text: setattr(task, "priority", _priority(text)))
    cell("status", lambda text: setattr(task, "status", _status(text)))
    cell("labels", lambda value: task.labels.extend(_labels(value)))
    cell("due", set_due)
    return task, project


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{json.dumps(value)} isn't a text")
    return value.strip()


def _title(text: str) -> str:
    if not text:
        raise ValueError("a task needs a title")
    if len(text) > _TITLE_LENGTH:
        raise ValueError(f"{len(text)} characters, at most {_TITLE_LENGTH} are allowed")
    if _REFUSED.search(text):
        raise ValueError("has a line break or another control character")
    return text


def _description(text: str) -> str:
    if len(text) > _DESCRIPTION_LENGTH:
        raise ValueError(f"{len(text)} characters, at most {_DESCRIPTION_LENGTH} are allowed")
    if "\0" in text:
        raise ValueError("has a NUL character")
    return text


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
    labels = list(dict.fromkeys(label for label in labels if label))
    if len(labels) > _LABELS:
        raise ValueError(f"{len(labels)} labels, at most {_LABELS} are allowed")
    for label in labels:
        if len(label) > _LABEL_LENGTH:
            raise ValueError(f"{label[:20]!r}… is longer than {_LABEL_LENGTH} characters")
        if _REFUSED.search(label):
            raise ValueError(f"{label!r} has a control character")
    return labels
