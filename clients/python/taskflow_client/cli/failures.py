"""Error output, as text or JSON, and exit codes."""

import sys
import traceback
from typing import Any

from typer.exceptions import TyperException

from taskflow_client.cli.command import Problem
from taskflow_client.cli.output import json_text, plain
from taskflow_client.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TaskFlowError,
    Unauthenticated,
    Unavailable,
)

_EXIT_CODES: list[tuple[tuple[type[TaskFlowError], ...], int]] = [
    ((InvalidArgument,), 2),
    ((NotFound,), 3),
    ((PermissionDenied, Unauthenticated), 4),
    ((AlreadyExists, Aborted, FailedPrecondition), 5),
    ((Unavailable, DeadlineExceeded, ResourceExhausted), 6),
]

_NOT_LOGGED_IN = "run `taskflow login`, or `taskflow register` for an account"
# Error reason → message and hint for the user. An empty message means that the server's message is shown.
_SENTENCES = {
    "CREDENTIALS_MISSING": ("not logged in", _NOT_LOGGED_IN),
    "TOKEN_INVALID": ("the session has ended", "run `taskflow login`"),
    "SESSION_REVOKED": ("the session has ended", "run `taskflow login`"),
    "REFRESH_TOKEN_REUSED": ("the session has ended", "run `taskflow login`"),
    "CREDENTIALS_WRONG": ("wrong e-mail or password", ""),
    "ETAG_MISMATCH": ("", "look at the current state, then repeat the command"),
    "SUGGESTION_STALE": ("", "ask for new ones with `taskflow suggestions request TASK`"),
    "ASSIGNEE_NOT_MEMBER": ("", "add them with `taskflow workspace add-member EMAIL`"),
    "PROJECT_ARCHIVED": ("", "take it out of the archive with `taskflow project unarchive KEY`"),
    "TASK_DELETED": ("", "bring it back with `taskflow task undelete TASK`"),
    "INTERNAL": ("the server failed unexpectedly", "see its log"),
}


def report(error: Exception, *, as_json: bool, server: str, debug: bool) -> int:
    """Writes an error to stderr and returns the exit code."""
    if debug:
        traceback.print_exception(error)
    facts = describe(error, server)
    if as_json:
        print(json_text({"error": facts}), file=sys.stderr)
    else:
        print("\n".join(_lines(facts)), file=sys.stderr)
    return int(facts["exit_code"])


def exit_code(error: TaskFlowError) -> int:
    return next((code for kinds, code in _EXIT_CODES if isinstance(error, kinds)), 1)


def describe(error: Exception, server: str) -> dict[str, Any]:
    """Returns the JSON output: exit_code, code, reason, message, hint, and any details."""
    if isinstance(error, TaskFlowError):
        return _from_server(error, server)
    if isinstance(error, Problem):
        names = {2: "INVALID_ARGUMENT", 3: "NOT_FOUND", 4: "UNAUTHENTICATED"}
        code = names.get(error.exit_code, "FAILED_PRECONDITION")
        return _facts(error.exit_code, code, "", error.message, error.hint) | error.facts
    if isinstance(error, TyperException):
        command = getattr(getattr(error, "ctx", None), "command_path", "taskflow")
        hint = f"see `{command} --help`" if error.exit_code == 2 else ""
        if type(error).__name__ == "NoSuchOption":
            hint += "; write -- before a text that begins with a dash"
        return _facts(error.exit_code, "INVALID_ARGUMENT", "", error.format_message(), hint)
    if isinstance(error, OSError):
        return _facts(1, "UNKNOWN", "", _os_error(error), "")
    message = f"unexpected {type(error).__name__}: {error}"
    return _facts(1, "UNKNOWN", "", message, "run the command with --debug to see more")


def _from_server(error: TaskFlowError, server: str) -> dict[str, Any]:
    message, hint = _SENTENCES.get(error.reason, ("", ""))
    if not error.reason and isinstance(error, Unavailable):
        message = f"can't reach TaskFlow at {server}"
        hint = "is it running? Choose another server with --server or TASKFLOW_SERVER"
    elif isinstance(error, DeadlineExceeded):
        message = "no response in time"
        hint = "the server may have done it: look before you repeat the command"
    elif isinstance(error, NotFound) and any(error.resource):
        message = f"no {' '.join(part for part in error.resource if part)} that you can see"
    elif error.retry_after is not None and not hint:
        hint = f"try again in {max(1, round(error.retry_after))} s"
    if error.reason == "INTERNAL" and error.metadata.get("reference"):
        hint = f"see its log, reference {error.metadata['reference']}"
    facts = _facts(exit_code(error), error.code.name, error.reason, message or error.message, hint)
    if any(error.resource):
        facts["resource"] = dict(zip(("type", "name"), error.resource, strict=True))
    if error.metadata:
        facts["metadata"] = error.metadata
    if error.field_violations:
        facts["field_violations"] = [violation._asdict() for violation in error.field_violations]
    if error.retry_after is not None:
        facts["retry_after_seconds"] = error.retry_after
    return facts


def _facts(exit_code: int, code: str, reason: str, message: str, hint: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"exit_code": exit_code, "code": code, "reason": reason}
    return facts | {"message": message, "hint": hint}


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"Error: {plain(facts['message'])}"]
    lines += [
        plain(f"  {violation['field']}: {violation['description']}")
        for violation in facts.get("field_violations", [])
    ]
    lines += [
        plain(f"  row {cell['row']}, {cell['column']}: {cell['problem']}")
        for cell in facts.get("rows", [])
    ]
    if facts["hint"]:
        lines.append(f"Hint: {plain(facts['hint'])}")
    return lines


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
