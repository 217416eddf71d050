"""Login and sessions: tokens are renewed once, shared between processes, and kept private."""

import asyncio
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow_client import (
    FileSessions,
    Session,
    TaskFlow,
    Unauthenticated,
    Unavailable,
)
from tests.unit.client_double import PASSWORD, Double, Failure


async def login(client: TaskFlow) -> None:
    await client.login("ada@example.com", PASSWORD)


async def me(client: TaskFlow) -> str:
    return (await client.users.GetCurrentUser(GetCurrentUserRequest())).user.email


async def test_without_a_login_calls_fail_as_unauthenticated(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        with pytest.raises(Unauthenticated) as caught:
            await me(client)
    assert caught.value.reason == "CREDENTIALS_MISSING"


async def test_register_login_and_logout(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        user = await client.register("new@example.com", PASSWORD, "New")
        assert user.display_name
        assert client.session is None
        await client.login("new@example.com", PASSWORD, device="laptop")
        assert double.requests["Login"][0].device == "laptop"
        assert await me(client)
        await client.logout()
        assert client.session is None
        await client.logout()
    assert double.calls["Logout"] == 1


async def test_logging_out_of_a_session_that_ended_forgets_it(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        await login(client)
        double.session_ended = True
        await client.logout()
        assert client.session is None


async def test_a_refused_token_is_renewed_once_for_all_calls_under_way(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        await login(client)
        double.expire_access()
        double.delay = 0.05
        emails = await asyncio.gather(*(me(client) for _ in range(30)))
    assert set(emails) == {"ada@example.com"}
    assert double.calls["RefreshToken"] == 1


async def test_a_token_is_renewed_before_it_expires(double: Double) -> None:
    double.token_lifetime = 0.6
    async with TaskFlow(double.address) as client:
        await login(client)
        await asyncio.sleep(0.4)
        await me(client)
    assert double.calls["RefreshToken"] == 1
    assert double.calls["GetCurrentUser"] == 1  # no call was refused


async def test_a_wrong_clock_does_not_renew_with_every_call(double: Double) -> None:
    double.token_lifetime = -3600  # as a clock that runs ahead sees it
    async with TaskFlow(double.address) as client:
        await login(client)
        double.access = dict.fromkeys(double.access, time.time() + 60)
        for _ in range(3):
            await me(client)
    assert double.calls["RefreshToken"] == 0


async def test_a_renewal_whose_answer_is_lost_is_retried(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        await login(client)
        double.expire_access()
        double.failures["RefreshToken"] = [Failure("UNAVAILABLE", after=True)]
        assert await me(client)
    assert double.calls["RefreshToken"] == 2
    assert not double.session_ended


async def test_a_cancelled_caller_does_not_cancel_the_renewal(double: Double) -> None:
    async with TaskFlow(double.address) as client:
        await login(client)
        double.expire_access()
        double.delay = 0.2
        calls = [asyncio.ensure_future(me(client)) for _ in range(2)]
        await asyncio.sleep(0.3)  # the calls were refused and the renewal is running
        calls[0].cancel()
        assert await calls[1] == "ada@example.com"
    assert double.calls["RefreshToken"] == 1


async def test_closing_waits_for_the_renewal_and_stores_it(double: Double, tmp_path: Path) -> None:
    store = FileSessions(tmp_path / "sessions.json")
    async with TaskFlow(double.address, session_store=store) as client:
        await login(client)
        double.expire_access()
        double.answer_delay = 0.3
        call = asyncio.ensure_future(me(client))
        await asyncio.sleep(0.2)
        call.cancel()
    session = store.read(double.address)
    assert session is not None
    assert double.refresh[session.refresh_token] == (0.0, None)  # the newest token, never used


async def test_an_unexpired_token_is_used_while_renewing_fails(double: Double) -> None:
    double.token_lifetime = 2
    async with TaskFlow(double.address, retry_for=0.1) as client:
        await login(client)
        double.access = dict.fromkeys(double.access, time.time() + 60)
        await asyncio.sleep(1.2)
        double.failures["RefreshToken"] = [Failure("UNAVAILABLE") for _ in range(9)]
        assert await me(client)
    assert double.calls["RefreshToken"] >= 1


async def test_a_session_that_ended_says_so_and_is_forgotten(
    double: Double, tmp_path: Path
) -> None:
    store = FileSessions(tmp_path / "sessions.json")
    async with TaskFlow(double.address, session_store=store) as client:
        await login(client)
        double.session_ended = True
        with pytest.raises(Unauthenticated):
            await me(client)
        assert client.session is None
    assert store.read(double.address) is None


async def test_the_session_file_is_private(double: Double, tmp_path: Path) -> None:
    path = tmp_path / "config" / "sessions.json"
    async with TaskFlow(double.address, session_store=FileSessions(path)) as client:
        await login(client)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    async with TaskFlow(double.address, session_store=FileSessions(path)) as client:
        await login(client)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text()


async def test_a_login_is_remembered_per_server(double: Double, tmp_path: Path) -> None:
    store = FileSessions(tmp_path / "sessions.json")
    async with TaskFlow(double.address, session_store=store) as client:
        await login(client)
    async with TaskFlow(double.address, session_store=store) as client:
        assert await me(client) == "ada@example.com"
    async with TaskFlow("localhost:1", session_store=store) as client:
        assert client.session is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"X": 1}', '{"X": {"user_id": "a"}}'])
async def test_a_damaged_session_file_means_not_logged_in(
    double: Double, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "sessions.json"
    path.write_text(content.replace("X", double.address))
    async with TaskFlow(double.address, session_store=FileSessions(path)) as client:
        assert client.session is None
        await login(client)
        assert await me(client)


async def test_tokens_that_another_process_renewed_first_are_used(
    double: Double, tmp_path: Path
) -> None:
    stores = [FileSessions(tmp_path / "sessions.json") for _ in range(2)]
    async with TaskFlow(double.address, session_store=stores[0]) as one:
        await login(one)
        async with TaskFlow(double.address, session_store=stores[1]) as two:
            double.expire_access()
            await me(one)
            await me(two)
    assert double.calls["RefreshToken"] == 1


async def test_another_users_login_in_the_session_file_is_left_alone(
    double: Double, tmp_path: Path
) -> None:
    store = FileSessions(tmp_path / "sessions.json")
    async with TaskFlow(double.address, session_store=store) as client:
        await login(client)
        other = Session("other", "other@example.com", "a", "r", 0)
        async with store.locked():
            store.write(double.address, other)
        double.expire_access()
        assert await me(client) == "ada@example.com"
    assert store.read(double.address) == other


async def test_many_processes_renew_one_session_without_ending_it(
    double: Double, tmp_path: Path
) -> None:
    path = tmp_path / "sessions.json"
    async with TaskFlow(double.address, session_store=FileSessions(path)) as client:
        await login(client)
    double.expire_access()
    double.delay = 0.02
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from taskflow_client import FileSessions, TaskFlow\n"
        "from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest\n"
        "async def main():\n"
        "    store = FileSessions(Path(sys.argv[2]))\n"
        "    async with TaskFlow(sys.argv[1], session_store=store) as client:\n"
        "        await client.users.GetCurrentUser(GetCurrentUserRequest())\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, double.address, str(path), env=dict(os.environ)
        )
        for _ in range(6)
    ]
    assert [await process.wait() for process in processes] == [0] * 6
    assert double.calls["RefreshToken"] == 1
    assert not double.session_ended
    stored = json.loads(path.read_text())[double.address]
    assert double.refresh[stored["refresh_token"]][1] is None


async def test_a_lock_that_is_never_released_is_reported(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskflow_client.session_store._LOCK_PATIENCE", 0.2)
    store = FileSessions(tmp_path / "sessions.json")
    async with (
        TaskFlow(double.address, session_store=store) as client,
        FileSessions(store.path).locked(),
    ):
        with pytest.raises(Unavailable, match="locked"):
            await login(client)
