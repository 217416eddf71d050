"""The taskflow command, run as a separate process, as users and scripts run it."""

import asyncio
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskflow.task.v1 import job_pb2, suggestion_pb2, task_pb2, task_service_pb2
from taskflow_client import FileSessions, TaskFlow
from taskflow_client.cli import output
from tests.unit.client_double import BEN, WORKSPACE, Double, Failure, serving

PASSWORD = "correct horse battery"


@dataclass
class CommandResult:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Runs commands for one user, whose files are in the test's folder."""

    double: Double
    folder: Path

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "TASKFLOW" not in name}
        own = {
            "TASKFLOW_SERVER": self.double.address,
            "TASKFLOW_CONFIG_DIR": str(self.folder / "config"),
        }
        return kept | own | extra

    async def start(self, *args: str, **extra: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "taskflow_client",
            *args,
            env=self.environment(**extra),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *args: str, stdin: str = "", **extra: str) -> CommandResult:
        process = await self.start(*args, **extra)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        assert "Traceback" not in err.decode()
        return CommandResult(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    async with serving(Double(accounts={"ada@example.com": PASSWORD})) as running:
        running.add_project("OPS")
        yield running


@pytest.fixture
def anonymous(double: Double, tmp_path: Path) -> Shell:
    return Shell(double, tmp_path)


@pytest.fixture
async def shell(anonymous: Shell) -> Shell:
    store = FileSessions(anonymous.folder / "config" / "sessions.json")
    async with TaskFlow(anonymous.double.address, session_store=store) as client:
        await client.login("ada@example.com", PASSWORD)
    return anonymous


async def test_register_logs_in_and_keeps_the_session_private(anonymous: Shell) -> None:
    args = ["register", "new@example.com", "--name", "New", "--password-stdin"]
    run = await anonymous.run(*args, stdin=f"{PASSWORD}\n", TZ="Europe/Lisbon")
    assert run.code == 0
    assert "logged in" in run.out
    [request] = anonymous.double.requests["Register"]
    assert (request.password, request.time_zone) == (PASSWORD, "Europe/Lisbon")
    kept = anonymous.folder / "config" / "sessions.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert PASSWORD not in kept.read_text()
    assert (await anonymous.run("whoami", "--output", "json")).json()["display_name"] == "Ada"


async def test_login_and_logout(anonymous: Shell) -> None:
    login = await anonymous.run("login", "ada@example.com", "--password-stdin", stdin=PASSWORD)
    assert login.out == "Logged in as ada@example.com.\n"
    assert (await anonymous.run("whoami")).code == 0
    assert (await anonymous.run("logout")).code == 0
    run = await anonymous.run("whoami")
    assert run.code == 4
    assert run.err.startswith("Error: not logged in\nHint: run `taskflow login`")


async def test_a_wrong_password_is_reported_without_a_traceback(anonymous: Shell) -> None:
    run = await anonymous.run("login", "ada@example.com", "--password-stdin", stdin="wrong")
    assert (run.code, run.out) == (4, "")
    assert run.err == "Error: wrong e-mail or password\n"


async def test_without_a_terminal_the_command_does_not_wait_for_a_password(
    anonymous: Shell,
) -> None:
    run = await anonymous.run("login", "ada@example.com")
    assert run.code == 2
    assert "--password-stdin" in run.err


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Failure("INVALID_ARGUMENT", "INVALID_REQUEST", fields={"x": "bad"}), 2),
        (Failure("NOT_FOUND", "RESOURCE_NOT_FOUND"), 3),
        (Failure("PERMISSION_DENIED", "ROLE_TOO_LOW"), 4),
        (Failure("UNAUTHENTICATED", "CREDENTIALS_MISSING"), 4),
        (Failure("ALREADY_EXISTS", "PROJECT_KEY_TAKEN"), 5),
        (Failure("ABORTED", "ETAG_MISMATCH"), 5),
        (Failure("FAILED_PRECONDITION", "PROJECT_ARCHIVED"), 5),
        (Failure("DEADLINE_EXCEEDED", "CALL_TIMED_OUT"), 6),
        (Failure("RESOURCE_EXHAUSTED", "LOGIN_THROTTLED", retry_after=60), 6),
        (Failure("INTERNAL", "INTERNAL", metadata={"reference": "f3b0"}), 1),
    ],
)
async def test_each_kind_of_failure_has_its_exit_code(
    shell: Shell, failure: Failure, code: int
) -> None:
    shell.double.failures["GetCurrentUser"] = [failure]
    run = await shell.run("whoami", "--output", "json")
    assert (run.code, run.out) == (code, "")
    error = json.loads(run.err)["error"]
    assert error["exit_code"] == code
    assert error["message"]
    assert {"code", "reason", "hint"} <= error.keys()


async def test_an_unreachable_server_gives_exit_code_6_within_seconds(shell: Shell) -> None:
    started = time.monotonic()
    run = await shell.run("task", "list", "--server", "localhost:1")
    assert run.code == 6
    assert "can't reach TaskFlow at localhost:1" in run.err
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    "args",
    [
        ["task", "lst"],
        ["task", "list", "--bogus"],
        ["task", "create"],
        ["task"],
        [],
        ["task", "show", "not a task"],
        ["task", "edit", "OPS-1"],
        ["task", "create", "x", "--due", "someday"],
        ["task", "create", "x", "--payload", "[1]"],
        ["whoami", "--output", "xml"],
        ["whoami", "--server", "ftp://x"],
        ["import", "/nonexistent.csv"],
    ],
)
async def test_wrong_usage_gives_exit_code_2(shell: Shell, args: list[str]) -> None:
    run = await shell.run(*args)
    assert (run.code, run.out) == (2, "")
    assert run.err


async def test_usage_errors_are_json_too(shell: Shell) -> None:
    run = await shell.run("task", "lst", "--output=json")
    assert json.loads(run.err)["error"]["exit_code"] == 2


async def test_debug_shows_where_an_error_came_from(anonymous: Shell) -> None:
    process = await anonymous.start("whoami", "--debug")
    _, err = await process.communicate()
    assert process.returncode == 4
    assert b"Traceback" in err


async def test_a_task_is_created_changed_finished_and_deleted(shell: Shell) -> None:
    options = ["--assignee", "ben@example.com", "--priority", "HIGH", "--label", "yard"]
    due = ["--due", "2026-12-01T09:00 Europe/Berlin", "--payload", '{"message": "hi"}']
    made = (await shell.run("task", "create", "Grease", *options, *due, "-o", "json")).json()
    assert (made["key"], made["priority"]) == ("OPS-1", "TASK_PRIORITY_HIGH")
    assert made["assignee_id"] == BEN
    assert made["due"]["date_time"]["time_zone"] == {"id": "Europe/Berlin", "version": ""}
    assert made["payload"] == {"message": "hi"}

    edit = ["task", "edit", "ops-1", "--title", "Oil", "--due", "none", "--label", "steel"]
    assert (await shell.run(*edit)).code == 0
    [update] = shell.double.requests["UpdateTask"]
    assert list(update.update_mask.paths) == ["title", "due", "labels"]
    assert (await shell.run("task", "assign", "OPS-1", "me")).code == 0
    assert (await shell.run("task", "start", "OPS-1")).code == 0
    assert (await shell.run("task", "done", made["id"])).out == "OPS-1 is done: Oil\n"

    shown = (await shell.run("task", "show", "OPS-1")).out
    for part in ("Oil", "done", "steel", "Ada"):
        assert part in shown
    assert (await shell.run("task", "delete", "OPS-1")).code == 0
    assert (await shell.run("task", "delete", "OPS-1")).code == 3


@pytest.mark.parametrize("option", ["--due", "--parent", "--payload"])
async def test_an_empty_option_clears_nothing(shell: Shell, option: str) -> None:
    shell.double.add_task("Grease")
    edited = await shell.run("task", "edit", "OPS-1", option, "")
    assert edited.code == 2
    assert f"{option} is empty" in edited.err
    assert "UpdateTask" not in shell.double.requests


async def test_lists_are_tables_for_people_and_json_for_scripts(shell: Shell) -> None:
    for number in range(3):
        shell.double.add_task(f"task [red]{number}[/red] \x1b[31m")
    table = (await shell.run("task", "list")).out
    assert table.splitlines()[0].split() == [
        "KEY",
        "TITLE",
        "STATUS",
        "PRIORITY",
        "ASSIGNEE",
        "DUE",
    ]
    assert "task [red]1[/red]" in table
    assert (
        "\x1b" not in table
    )  # no colour codes in a pipe, neither ours nor from another user's texts
    listed = (await shell.run("--output", "json", "task", "list")).json()
    assert [each["key"] for each in listed] == ["OPS-1", "OPS-2", "OPS-3"]
    assert listed[0]["labels"] == []  # fields with default values are included
    assert listed[0]["status"] == "TASK_STATUS_TODO"
    limited = (await shell.run("task", "list", "--limit", "2", "-o", "json")).json()
    assert len(limited) == 2


async def test_filters_reach_the_server(shell: Shell) -> None:
    args = ["--status", "todo", "--status", "IN-PROGRESS", "--assignee", "nobody"]
    more = ["--project", "ops", "--priority", "none", "--order", "due", "--descending"]
    run = await shell.run("task", "list", *args, *more, "--due-before", "2026-12-01")
    assert run.code == 0, run.err
    [request] = shell.double.requests["ListTasks"]
    assert list(request.filter.statuses) == [
        task_pb2.TASK_STATUS_TODO,
        task_pb2.TASK_STATUS_IN_PROGRESS,
    ]
    assert list(request.filter.assignee_ids) == [""]
    assert list(request.filter.project_ids) == [shell.double.projects[0].id]
    assert list(request.filter.priorities) == [task_pb2.TASK_PRIORITY_UNSPECIFIED]
    assert request.order_by.field == task_service_pb2.TASK_ORDER_FIELD_DUE_TIME
    assert request.filter.due_before.ToJsonString() == "2026-11-30T23:00:00Z"


async def test_a_workspace_is_chosen_by_name_and_remembered(shell: Shell) -> None:
    assert (await shell.run("workspace", "use", "harbour")).code == 0
    assert (await shell.run("workspace", "list")).out.splitlines()[1].startswith("*")
    assert (await shell.run("task", "list")).code == 0
    assert (await shell.run("task", "list", "-w", "Nowhere")).code == 3
    assert shell.double.requests["ListTasks"][0].workspace_id == WORKSPACE
    kept = shell.folder / "config" / "workspaces.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_people_who_are_not_members_are_not_found(shell: Shell) -> None:
    shell.double.add_task("x")
    run = await shell.run("task", "assign", "OPS-1", "eve@example.com")
    assert run.code == 3
    assert "taskflow workspace add-member eve@example.com" in run.err


async def test_suggestions_are_listed_and_accepted_with_edits(shell: Shell) -> None:
    task = shell.double.add_task("Urgent: grease")
    suggestion = suggestion_pb2.Suggestion(
        id="01900000-0000-7000-8000-0000000000aa",
        task_id=task.id,
        kind=suggestion_pb2.SUGGESTION_KIND_PRIORITY,
        priority=task_pb2.TASK_PRIORITY_HIGH,
        reason="says 'urgent'",
        state=suggestion_pb2.SUGGESTION_STATE_PENDING,
    )
    shell.double.suggestions.append(suggestion)
    listed = (await shell.run("suggestions", "list")).out
    assert "OPS-1" in listed
    assert task.title in listed
    assert "says 'urgent'" in listed
    gone = suggestion_pb2.Suggestion()
    gone.CopyFrom(suggestion)
    gone.id = gone.task_id = "01900000-0000-7000-8000-0000000000cc"
    shell.double.suggestions.append(gone)
    both = (await shell.run("suggestions", "list")).out
    assert "OPS-1" in both
    assert gone.task_id in both
    wrong = await shell.run("suggestions", "accept", suggestion.id, "--edit", "soonish")
    assert wrong.code == 2
    accepted = await shell.run("suggestions", "accept", suggestion.id, "--edit", "low")
    assert accepted.code == 0
    assert task.priority == task_pb2.TASK_PRIORITY_LOW
    again = await shell.run("suggestions", "accept", suggestion.id)
    assert again.code == 5


async def test_jobs_and_dead_letters(shell: Shell) -> None:
    job = job_pb2.Job(
        id="01900000-0000-7000-8000-0000000000bb", state=job_pb2.JOB_STATE_FAILED, error="no"
    )
    task = shell.double.add_task("Paint the crane")
    job.task_id = task.id
    shell.double.jobs.append(job)
    listed = (await shell.run("jobs", "list", "--state", "failed")).out
    assert "failed" in listed
    assert f"{task.key}  Paint the crane" in listed
    assert (await shell.run("jobs", "retry", job.id)).code == 0
    assert (await shell.run("jobs", "list", "--state", "failed", "-o", "json")).json() == []
    assert (await shell.run("dead-letters", "list")).code == 4


async def test_an_import_reports_every_error_and_changes_nothing(
    shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("title,priority,due\nfine,low,\nx,extreme,never\n")
    run = await shell.run("import", str(path))
    assert run.code == 2
    assert "2 cells are invalid, nothing was imported" in run.err
    assert "row 3, due" in run.err
    assert shell.double.calls["CreateTask"] == 0
    path.write_text("title\nfine\nINVALID\nfine\nINVALID\n")
    for check in ([], ["--check"]):
        scripted = await shell.run("import", str(path), "-ojson", *check)
        assert scripted.code == 2
        found = json.loads(scripted.err)["error"]["rows"]
        assert [(cell["row"], cell["column"]) for cell in found] == [(3, "title"), (5, "title")]
    assert shell.double.tasks == []


async def test_an_interrupted_import_can_be_repeated(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    lines = [f"task {number},+{number + 1}h" for number in range(30)]
    path.write_text("\n".join(["title,due", *lines]))
    shell.double.failures["CreateTask"] = [None] * 42 + [Failure("PERMISSION_DENIED", "OOPS")]
    first = await shell.run("import", str(path))
    assert first.code == 4
    assert "of 30 tasks are imported" in first.err
    assert "run it again" not in first.err
    made = len(shell.double.tasks)
    assert 0 < made < 30
    second = (await shell.run("import", str(path), "--output", "json")).json()
    assert sorted(task.title for task in shell.double.tasks) == sorted(
        line.partition(",")[0] for line in lines
    )
    assert (second["imported"], second["imported_before"]) == (30 - made, made)
    third = await shell.run("import", str(path))
    assert (third.code, len(shell.double.tasks)) == (0, 30)
    assert third.out == f"{path}: 0 tasks are imported, 30 were imported before.\n"


async def test_an_import_that_ctrl_c_ends_says_what_is_imported(
    shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("\n".join(["title", *(f"task {number}" for number in range(3000))]))
    process = await shell.start("import", str(path))
    async with asyncio.timeout(60):
        while len(shell.double.tasks) < 10:
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"of 3000 tasks are imported\nHint: run it again" in err


async def test_an_import_tells_which_tasks_were_deleted_since(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("title\na\nb\n")
    one = await shell.run("import", str(path))
    assert one.out == f"{path}: 2 tasks are imported.\n"
    shell.double.tasks[0].delete_time.GetCurrentTime()
    again = await shell.run("import", str(path))
    assert again.out == (
        f"{path}: 0 tasks are imported, 2 were imported before, of which 1 is deleted now.\n"
    )


async def test_an_import_can_be_tried_without_importing(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"title": "x"}]))
    run = await shell.run("import", str(path), "--check")
    assert (run.code, shell.double.tasks) == (0, [])
    assert run.out == f"{path}: 1 task can be imported.\n"


async def test_several_tasks_are_finished_at_once(shell: Shell) -> None:
    for number in range(3):
        shell.double.add_task(f"task {number}")
    run = await shell.run("task", "done", "OPS-1", "OPS-3")
    assert run.out.splitlines() == ["OPS-1 is done: task 0", "OPS-3 is done: task 2"]
    reopened = await shell.run("task", "reopen", "OPS-1", "OPS-3", "-o", "json")
    assert [task["key"] for task in reopened.json()] == ["OPS-1", "OPS-3"]


async def test_a_title_that_begins_with_a_dash_is_explained(shell: Shell) -> None:
    run = await shell.run("task", "create", "- buy milk")
    assert run.code == 2
    assert "write -- before a text that begins with a dash" in run.err
    assert (await shell.run("task", "create", "--", "- buy milk")).code == 0
    assert shell.double.tasks[0].title == "- buy milk"


async def test_json_is_utf_8_in_every_locale_and_controls_no_terminal(shell: Shell) -> None:
    shell.double.add_task("\u2192 \u6771\u4eac \u009b31m \u202e \u2028 end")
    run = await shell.run("task", "list", "-o", "json", PYTHONIOENCODING="cp1252")
    assert run.json()[0]["title"] == "\u2192 \u6771\u4eac \u009b31m \u202e \u2028 end"
    assert "\u6771" in run.out
    assert not set(run.out) & set("\u009b\u202e\u2028")


@pytest.mark.parametrize(
    ("zone", "sent"),
    [("CET", "CET"), ("posix/Europe/Berlin", "Europe/Berlin"), (":Asia/Tokyo", "Asia/Tokyo")],
)
async def test_registration_takes_every_zone_that_tz_can_name(
    anonymous: Shell, zone: str, sent: str
) -> None:
    run = await anonymous.run(
        "register", "new@example.com", "--password-stdin", stdin=PASSWORD, TZ=zone
    )
    assert run.code == 0
    assert anonymous.double.requests["Register"][0].time_zone == sent


async def test_a_tz_without_a_name_says_what_to_do(anonymous: Shell) -> None:
    run = await anonymous.run(
        "register", "new@example.com", "--password-stdin", stdin=PASSWORD, TZ="EST5EDT4,M3.2.0"
    )
    assert run.code == 2
    assert "TZ=EST5EDT4,M3.2.0 names no IANA time zone" in run.err
    assert "--time-zone" in run.err


async def test_settings_of_the_account_are_changed(shell: Shell) -> None:
    run = await shell.run("me", "set", "--time-zone", "Asia/Tokyo", "--mail", "off", "-o", "json")
    assert run.code == 0
    [request] = shell.double.requests["UpdateCurrentUser"]
    assert list(request.update_mask.paths) == ["time_zone", "email_notifications"]
    assert (request.user.time_zone, request.user.email_notifications) == ("Asia/Tokyo", False)
    assert (await shell.run("me", "set")).code == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'\xef\xbb\xbf{"a": 1}', ""),
        ('{"a": "\u00fc"}'.encode("latin-1"), "isn't UTF-8"),
        (b'{"a": {"b": 9007199254740993}}', "at a.b"),
    ],
)
async def test_a_payload_from_a_file_is_read_exactly_or_refused(
    shell: Shell, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "payload.json"
    path.write_bytes(content)
    run = await shell.run("task", "create", "x", "--payload", f"@{path}")
    assert run.code == (2 if problem else 0)
    assert problem in run.err


async def test_a_closed_standard_output_is_named(shell: Shell) -> None:
    command = f'exec "{sys.executable}" -m taskflow_client task list >&-'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command), env=shell.environment(), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err) == (1, b"Error: the standard output is closed\n")


def test_a_narrow_terminal_shows_titles_rather_than_all_columns() -> None:
    assert (
        output.fitting(["KEY", "TITLE", "STATUS", "DUE"], [["A-1", "x" * 60, "todo", ""]], 40) == 3
    )


async def next_json(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await asyncio.wait_for(process.stdout.readline(), 20))


async def test_watch_prints_one_json_message_per_line_and_ends_cleanly_on_ctrl_c(
    shell: Shell,
) -> None:
    shell.double.add_task("old")
    process = await shell.start("watch", "--output", "json")
    assert (await next_json(process))["snapshot"]["title"] == "old"
    assert "snapshot_complete" in await next_json(process)
    task = shell.double.add_task("new")
    created = task_service_pb2.TASK_CHANGE_KIND_CREATED
    shell.double.task_changes.append(task_service_pb2.TaskChange(kind=created, task=task))
    change = await next_json(process)
    assert change["change"]["task"]["title"] == "new"
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, err) == (0, b"")

    resumed = await shell.start("watch", "-o", "json", "--cursor", "e1:0")
    assert (await next_json(resumed))["cursor"] == change["cursor"]
    resumed.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(resumed.wait(), 10) == 0


async def test_watch_prints_the_command_that_resumes_it(shell: Shell) -> None:
    shell.double.add_task("old")
    process = await shell.start("watch")
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 20)
    assert b"OPS-1" in await asyncio.wait_for(process.stdout.readline(), 20)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert b"taskflow watch --cursor e1:0" in err


async def test_me_sets_only_the_given_fields(shell: Shell) -> None:
    assert (await shell.run("me", "set", "--mail", "off")).code == 0
    assert (await shell.run("me", "set", "--time-zone", "Europe/Oslo", "--name", "Ada L")).code == 0
    mail, others = shell.double.requests["UpdateCurrentUser"]
    assert list(mail.update_mask.paths) == ["email_notifications"]
    assert not mail.user.email_notifications
    assert sorted(others.update_mask.paths) == ["display_name", "time_zone"]
    assert (others.user.display_name, others.user.time_zone) == ("Ada L", "Europe/Oslo")
    assert (await shell.run("me", "set")).code == 2


async def test_me_says_that_the_address_was_refused_and_what_to_do(shell: Shell) -> None:
    assert "refused" not in (await shell.run("me", "show")).out
    shell.double.email_bounced = True
    out = " ".join((await shell.run("me", "show")).out.split())
    assert "none since" in out
    assert "your address was refused" in out
    assert "taskflow me set --mail on" in out


async def test_notifications_are_listed_read_and_watched(shell: Shell) -> None:
    shell.double.notify("Ben assigned OPS-1 to you")
    out = (await shell.run("notifications", "list")).out
    assert "Ben assigned OPS-1" in out
    assert "Fix the crane" in out
    notification = shell.double.notifications[0]
    read = await shell.run("notifications", "read", notification.id, "-o", "json")
    assert read.json() == {"marked_count": "1"}
    assert (await shell.run("notifications", "read-all", "--up-to", "1")).code == 0
    process = await shell.start("notifications", "watch", "-o", "json", "--cursor", "e1:0")
    seen = await next_json(process)
    assert seen["change"]["created"]["headline"] == "Ben assigned OPS-1 to you"
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize("format", ["table", "json"])
async def test_a_closed_output_pipe_is_no_error(shell: Shell, format: str) -> None:
    for number in range(3000):
        shell.double.add_task(f"task {number}")
    process = await shell.start("task", "list", "-o", format)
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert await process.stderr.read() == b""


async def test_help_explains_the_exit_codes_and_imports_no_grpc(anonymous: Shell) -> None:
    run = await anonymous.run("--help")
    assert run.code == 0
    assert "Exit codes: 0 done" in run.out
    script = (
        "import sys\n"
        "from taskflow_client.cli import main\n"
        "main(['--help'])\n"
        "sys.exit(bool({'grpc', 'google.protobuf', 'rich.console'} & sys.modules.keys()))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_completion_for_a_shell_is_shown(anonymous: Shell) -> None:
    process = await anonymous.start(
        _TASKFLOW_COMPLETE="complete_bash", COMP_WORDS="taskflow ta", COMP_CWORD="1"
    )
    out, _ = await process.communicate()
    assert out.decode().split() == ["task"]
