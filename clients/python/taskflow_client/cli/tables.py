"""The columns of each printed table, and the cell text for each field."""

from typing import Any

from google.protobuf.json_format import MessageToJson

from taskflow.auth.v1.user_pb2 import User
from taskflow.task.v1.suggestion_pb2 import SUGGESTION_KIND_PRIORITY, Suggestion
from taskflow.task.v1.task_pb2 import Task
from taskflow_client.cli import enums
from taskflow_client.cli.deadlines import format_due, format_time
from taskflow_client.cli.output import Column

USER: list[Column] = [
    ("name", lambda user: user.display_name),
    ("e-mail", lambda user: user.email),
    ("time zone", lambda user: user.time_zone),
    ("mail", lambda user: mail(user)),
    ("id", lambda user: user.id),
]

MEMBERS: list[Column] = [
    ("NAME", lambda member: member.display_name),
    ("E-MAIL", lambda member: member.email),
    ("ROLE", lambda member: enums.role_word(member.role)),
]

PROJECTS: list[Column] = [
    ("KEY", lambda project: project.key),
    ("NAME", lambda project: project.display_name),
    ("STATE", lambda project: "archived" if project.HasField("archive_time") else "open"),
    ("DESCRIPTION", lambda project: shortened(project.description)),
]

NOTIFICATIONS: list[Column] = [
    ("", lambda notification: "" if notification.HasField("read_time") else "•"),
    ("TIME", lambda notification: format_time(notification.create_time)),
    ("WHAT", lambda notification: notification.headline),
    ("TITLE", lambda notification: notification.task_title),
    ("ID", lambda notification: notification.id),
]

JOB: list[Column] = [
    ("job", lambda job: job.id),
    ("task", lambda job: job.task_id),
    ("state", lambda job: enums.job_state_word(job.state)),
    ("run", lambda job: str(job.attempt or "")),
    ("created", lambda job: format_time(job.create_time)),
    ("started", lambda job: format_time(job.start_time)),
    ("finished", lambda job: format_time(job.finish_time)),
    ("error", lambda job: job.error),
    ("result", lambda job: MessageToJson(job.result) if job.HasField("result") else ""),
]

DEAD_LETTERS: list[Column] = [
    ("ID", lambda letter: letter.id),
    ("CONSUMER", lambda letter: letter.consumer),
    ("EVENT", lambda letter: letter.event_type),
    ("PARKED", lambda letter: format_time(letter.park_time)),
    ("REPLAYED", lambda letter: format_time(letter.replay_time)),
    ("ERROR", lambda letter: shortened(letter.error)),
]


def workspaces(default: str) -> list[Column]:
    return [
        ("", lambda workspace: "*" if workspace.id == default else ""),
        ("NAME", lambda workspace: workspace.display_name),
        ("ROLE", lambda workspace: enums.role_word(workspace.role)),
        ("ID", lambda workspace: workspace.id),
    ]


def tasks(names: dict[str, str]) -> list[Column]:
    return [
        ("KEY", lambda task: task.key),
        ("TITLE", lambda task: task.title),
        ("STATUS", state),
        ("PRIORITY", lambda task: enums.priority_word(task.priority)),
        ("ASSIGNEE", lambda task: name(names, task.assignee_id)),
        ("DUE", format_due),
    ]


def task(names: dict[str, str]) -> list[Column]:
    return [
        ("task", lambda task: task.key),
        ("title", lambda task: task.title),
        ("status", state),
        ("priority", lambda task: enums.priority_word(task.priority)),
        ("assignee", lambda task: name(names, task.assignee_id)),
        ("due", format_due),
        ("labels", lambda task: ", ".join(task.labels)),
        ("created", lambda task: _by(format_time(task.create_time), name(names, task.creator_id))),
        ("changed", lambda task: format_time(task.update_time)),
        ("finished", lambda task: format_time(task.finish_time)),
        ("parent", lambda task: task.parent_id),
        ("payload", lambda task: MessageToJson(task.payload) if task.HasField("payload") else ""),
        ("id", lambda task: task.id),
        ("etag", lambda task: task.etag),
        ("description", lambda task: task.description),
    ]


def jobs(tasks: dict[str, Task]) -> list[Column]:
    return [
        ("ID", lambda job: job.id),
        *_of_task(tasks),
        ("STATE", lambda job: enums.job_state_word(job.state)),
        ("RUN", lambda job: str(job.attempt or "")),
        ("CREATED", lambda job: format_time(job.create_time)),
        ("FINISHED", lambda job: format_time(job.finish_time)),
        ("ERROR", lambda job: shortened(job.error)),
    ]


def suggestions(tasks: dict[str, Task]) -> list[Column]:
    return [
        ("ID", lambda suggestion: suggestion.id),
        *_of_task(tasks),
        ("PROPOSES", proposal),
        ("WHY", lambda suggestion: suggestion.reason),
        ("SURE", lambda suggestion: f"{suggestion.confidence:.0%}"),
        ("STATE", lambda suggestion: enums.suggestion_state_word(suggestion.state)),
    ]


def _of_task(tasks: dict[str, Task]) -> list[Column]:
    """The task that an item belongs to. One that can't be read is shown by its id, without a title."""
    return [
        ("TASK", lambda item: tasks[item.task_id].key if item.task_id in tasks else item.task_id),
        (
            "TITLE",
            lambda item: shortened(tasks[item.task_id].title, 40) if item.task_id in tasks else "",
        ),
    ]


def proposal(suggestion: Suggestion) -> str:
    if suggestion.kind == SUGGESTION_KIND_PRIORITY:
        return f"priority {enums.priority_word(suggestion.priority)}"
    return f"description: {shortened(suggestion.description)}"


def mail(user: User) -> str:
    if not user.email_notifications:
        return "off"
    if user.HasField("email_bounce_time"):
        return (
            f"none since {format_time(user.email_bounce_time)}: your address was refused;"
            " `taskflow me set --mail on` tries it again"
        )
    return "on"


def state(task: Task) -> str:
    return "deleted" if task.HasField("delete_time") else enums.status_word(task.status)


def name(names: dict[str, str], user_id: str) -> str:
    return names.get(user_id, user_id)


def shortened(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _by(when: str, who: Any) -> str:
    return f"{when} by {who}" if when and who else when
