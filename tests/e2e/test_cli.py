"""The taskflow command against real servers, through the gateway."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PASSWORD = "correct horse battery"


class CliUser:
    """A user with an account and a config folder."""

    def __init__(self, gateway: str, folder: Path, name: str) -> None:
        self.email = f"{name}-{uuid.uuid4().hex[:8]}@example.com"
        self.name = name
        kept = {key: value for key, value in os.environ.items() if "TASKFLOW" not in key}
        own = {"TASKFLOW_SERVER": gateway, "TASKFLOW_CONFIG_DIR": str(folder / name)}
        self._environment = kept | own

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "taskflow_client",
            *args,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *args: str, stdin: str = "", code: int = 0) -> str:
        process = await self.start(*args)
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode == code, err.decode()
        return out.decode()

    async def json(self, *args: str) -> Any:
        return json.loads(await self.run(*args, "--output", "json"))

    async def register(self) -> None:
        args = ["register", self.email, "--name", self.name, "--password-stdin"]
        await self.run(*args, stdin=PASSWORD)

    @asynccontextmanager
    async def watching(self, *args: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Runs a watch command; yields its messages, then ends the command with Ctrl-C."""
        process = await self.start(*args, "--output", "json")
        assert process.stdout is not None
        lines = process.stdout

        async def messages() -> AsyncIterator[Any]:
            while True:
                yield json.loads(await asyncio.wait_for(lines.readline(), 30))

        try:
            yield messages()
        finally:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0


async def team(gateway: str, folder: Path) -> tuple[CliUser, CliUser]:
    ada, ben = CliUser(gateway, folder, "ada"), CliUser(gateway, folder, "ben")
    await asyncio.gather(ada.register(), ben.register())
    await ada.run("workspace", "create", "Harbour")
    await ada.run("workspace", "add-member", ben.email)
    await ada.run("project", "create", "OPS", "Operations")
    return ada, ben


async def test_a_task_is_handed_from_one_person_to_another(gateway: str, tmp_path: Path) -> None:
    ada, ben = await team(gateway, tmp_path)
    made = await ada.json("task", "create", "Grease the crane", "--due", "+3d", "--label", "yard")
    assert made["key"] == "OPS-1"
    async with ben.watching("notifications", "watch") as messages:
        assert "heartbeat" in await anext(messages)
        await ada.run("task", "assign", "OPS-1", ben.email)
        message = await anext(messages)
        while "change" not in message:
            message = await anext(messages)
    assert message["change"]["created"]["task_key"] == "OPS-1"
    await ben.run("task", "done", "OPS-1")
    await ada.run("task", "create", "Oil the winch", "--assignee", ben.email)
    async with ben.watching("notifications", "watch", "--cursor", message["cursor"]) as messages:
        told = (await anext(messages))["change"]["created"]
    assert (told["task_key"], told["kind"]) == ("OPS-2", "NOTIFICATION_KIND_ASSIGNED")
    assert (await ada.json("task", "show", "OPS-1"))["status"] == "TASK_STATUS_DONE"
    assert [task["key"] for task in await ada.json("task", "list", "--status", "done")] == ["OPS-1"]
    await ada.run("task", "show", "OPS-9", code=3)
    await ben.run("workspace", "add-member", ada.email, code=4)
    await ada.run("workspace", "add-member", ben.email, code=5)
    await ben.run("logout")
    await ben.run("whoami", code=4)


async def test_an_import_shows_on_the_live_board_and_a_repeat_adds_nothing(
    gateway: str, tmp_path: Path
) -> None:
    ada, ben = await team(gateway, tmp_path)
    titles = {f"task {number}" for number in range(25)}
    file = tmp_path / "tasks.csv"
    rows = [f"{title},{ben.email},a;b,+{2 + len(title)}h" for title in sorted(titles)]
    file.write_text("\n".join(["title,assignee,labels,due", *rows]))
    async with ben.watching("watch") as messages:
        assert "snapshot_complete" in await anext(messages)
        await ada.run("import", str(file))
        await ada.run("import", str(file))
        seen: set[str] = set()
        while seen != titles:
            message = await anext(messages)
            if "change" in message:
                seen.add(message["change"]["task"]["title"])
    listed = await ben.json("task", "list", "--assignee", "me")
    assert sorted(task["title"] for task in listed) == sorted(titles)


async def test_a_suggestion_is_made_and_accepted(gateway: str, tmp_path: Path) -> None:
    ada, _ = await team(gateway, tmp_path)
    await ada.run("task", "create", "Fix the login as soon as possible")
    async with asyncio.timeout(60):
        while not (made := await ada.json("suggestions", "list", "--task", "OPS-1")):
            await asyncio.sleep(0.5)
    [suggestion] = [each for each in made if each["kind"] == "SUGGESTION_KIND_PRIORITY"]
    assert suggestion["priority"] == "TASK_PRIORITY_HIGH"
    await ada.run("suggestions", "accept", suggestion["id"], "--edit", "urgent")
    assert (await ada.json("task", "show", "OPS-1"))["priority"] == "TASK_PRIORITY_URGENT"
    await ada.run("suggestions", "accept", suggestion["id"], code=5)


async def test_a_failed_job_is_retried(gateway: str, tmp_path: Path) -> None:
    ada, _ = await team(gateway, tmp_path)
    await ada.run("task", "create", "No message", "--payload", '{"other": 1}')
    async with asyncio.timeout(60):
        while not (failed := await ada.json("jobs", "list", "--state", "failed")):
            await asyncio.sleep(0.5)
    retried = await ada.json("jobs", "retry", failed[0]["id"])
    assert retried["attempt"] == failed[0]["attempt"] + 1
    assert retried["state"] in ("JOB_STATE_PENDING", "JOB_STATE_PROCESSING")
