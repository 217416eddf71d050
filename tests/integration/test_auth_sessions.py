"""Promises about sessions: refresh rotation, reuse detection, logout, throttled password guessing."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from argon2 import PasswordHasher
from sqlalchemy import text

from services.auth.sessions import passwords, retention
from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from services.platform.data.retention import run_once
from services.platform.rpc.errors import DomainError
from taskflow.auth.v1 import auth_service_pb2
from tests.integration.people import (
    GUESSER,
    PASSWORD,
    Person,
    Team,
    bearer,
    database,
    events,
    guess,
    read_refusal,
    refusal,
    team_at,
)

_Code = grpc.StatusCode

# Tests let time pass by moving stored times into the past.
_AGE_ROTATION = Statement(
    text(
        "UPDATE auth.sessions SET rotated_at = rotated_at - make_interval(secs => :seconds)"
        " WHERE user_id = :user_id"
    )
)
_EXPIRE = Statement(
    text(
        "UPDATE auth.sessions SET expires_at = now() - make_interval(hours => :hours)"
        " WHERE user_id = :user_id"
    )
)
_AGE_ATTEMPTS = Statement(
    text("UPDATE auth.login_attempts SET attempted_at = attempted_at - interval '14 min 58 s'")
)
_COUNT_ATTEMPTS = Statement(text("SELECT count(*) AS n FROM auth.login_attempts"))
_FORGET_ATTEMPTS = Statement(text("DELETE FROM auth.login_attempts"))
_SESSIONS = Statement(text("SELECT * FROM auth.sessions WHERE user_id = :user_id ORDER BY id"))
_HASH = Statement(text("SELECT password_hash FROM auth.users WHERE id = :user_id"))
_SET_HASH = Statement(text("UPDATE auth.users SET password_hash = :hash WHERE id = :user_id"))


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


async def _run(db: Database, statement: Statement, **values: object) -> None:
    async with db.transaction() as tx:
        await tx.run(statement, **values)


async def _logout(team: Team, token: str) -> None:
    await team.auth.Logout(auth_service_pb2.LogoutRequest(), metadata=bearer(token))


# --- login and logout


async def test_login_starts_a_session_with_its_device_and_lifetimes(
    team: Team, db: Database, services: Settings
) -> None:
    ada = await team.person()
    async with db.read() as tx:
        (row,) = await tx.all(_SESSIONS, user_id=ada.id)
    assert row.device == "laptop"
    now = row.created_at.timestamp()
    access = ada.tokens.access_expire_time.ToSeconds() - now
    refresh = ada.tokens.refresh_expire_time.ToSeconds() - now
    assert abs(access - services.access_token_lifetime) < 3
    assert abs(refresh - services.refresh_token_lifetime) < 3
    assert (await team.me(ada.tokens.access_token)).id == ada.id


async def test_logout_ends_only_its_own_session_at_once(team: Team, db: Database) -> None:
    ada = await team.person()
    other = await team.login(ada.email)
    await _logout(team, ada.tokens.access_token)
    refused = await refusal(team.me(ada.tokens.access_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")
    refused = await refusal(team.refresh(ada.tokens.refresh_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")
    refused = await refusal(_logout(team, ada.tokens.access_token))
    assert refused.reason == "SESSION_REVOKED"
    assert (await team.me(other.tokens.access_token)).id == ada.id
    async with db.read() as tx:
        ended, living = await tx.all(_SESSIONS, user_id=ada.id)
    assert ended.revoked_at
    assert not living.revoked_at
    (event,) = await events(db, "taskflow._.session.revoked", str(ended.id))
    assert event.session_revoked.user_id == ada.id
    assert event.session_revoked.session_id == str(ended.id)


async def test_every_call_of_an_ended_session_is_refused(team: Team) -> None:
    ada = await team.person()
    workspace = await team.workspace(ada)
    await _logout(team, ada.tokens.access_token)
    for call in (
        team.get(ada, workspace.id),
        team.members(ada, workspace.id),
        team.workspace(ada),
        team.remove(ada, workspace.id, ada.id),
        team.get(ada, str(uuid4())),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")


async def test_an_expired_session_can_neither_be_refreshed_nor_used(
    team: Team, db: Database
) -> None:
    ada = await team.person()
    await _run(db, _EXPIRE, hours=0, user_id=ada.id)
    refused = await refusal(team.refresh(ada.tokens.refresh_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "TOKEN_INVALID")
    refused = await refusal(team.me(ada.tokens.access_token))
    assert refused.code is _Code.UNAUTHENTICATED


# --- refresh


async def test_a_refresh_returns_new_tokens_of_the_same_session(team: Team, db: Database) -> None:
    ada = await team.person()
    newer = await team.refresh(ada.tokens.refresh_token)
    assert newer.refresh_token != ada.tokens.refresh_token
    assert (
        newer.refresh_expire_time.ToNanoseconds() > ada.tokens.refresh_expire_time.ToNanoseconds()
    )
    assert (await team.me(newer.access_token)).id == ada.id
    assert (await team.me(ada.tokens.access_token)).id == ada.id, "until it expires"
    async with db.read() as tx:
        (row,) = await tx.all(_SESSIONS, user_id=ada.id)
    assert row.last_used_at > row.created_at


async def test_a_refresh_token_reused_within_10_seconds_returns_the_same_successor(
    team: Team, db: Database
) -> None:
    ada = await team.person()
    newer = await team.refresh(ada.tokens.refresh_token)
    await _run(db, _AGE_ROTATION, seconds=9, user_id=ada.id)
    again = await team.refresh(ada.tokens.refresh_token)
    assert again.refresh_token == newer.refresh_token
    assert again.refresh_expire_time == newer.refresh_expire_time
    assert (await team.refresh(again.refresh_token)).refresh_token not in (
        ada.tokens.refresh_token,
        newer.refresh_token,
    )


async def test_a_refresh_token_reused_later_ends_the_whole_token_family(
    team: Team, db: Database
) -> None:
    ada = await team.person()
    other = await team.login(ada.email)
    newer = await team.refresh(ada.tokens.refresh_token)
    await _run(db, _AGE_ROTATION, seconds=10, user_id=ada.id)
    refused = await refusal(team.refresh(ada.tokens.refresh_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED")
    refused = await refusal(team.refresh(newer.refresh_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")
    for token in (ada.tokens.access_token, newer.access_token):
        assert (await refusal(team.me(token))).reason == "SESSION_REVOKED"
    assert (await team.me(other.tokens.access_token)).id == ada.id, "the other session goes on"
    async with db.read() as tx:
        ended, _ = await tx.all(_SESSIONS, user_id=ada.id)
    assert len(await events(db, "taskflow._.session.revoked", str(ended.id))) == 1


async def test_reuse_of_a_token_two_refreshes_old_always_counts_as_theft(team: Team) -> None:
    ada = await team.person()
    child = await team.refresh(ada.tokens.refresh_token)
    await team.refresh(child.refresh_token)
    refused = await refusal(team.refresh(ada.tokens.refresh_token))
    assert refused.reason == "REFRESH_TOKEN_REUSED"


async def test_eight_concurrent_refreshes_create_one_successor_and_a_replay_ends_the_family(
    team: Team, db: Database
) -> None:
    user = await team.register()
    family = [await team.login(user.email) for _ in range(12)]

    async def use(person: Person) -> set[str]:
        tokens = await asyncio.gather(
            *(team.refresh(person.tokens.refresh_token) for _ in range(8))
        )
        return {token.refresh_token for token in tokens}

    children = await asyncio.gather(*(use(person) for person in family))
    assert [len(child) for child in children] == [1] * len(family)
    await _run(db, _AGE_ROTATION, seconds=60, user_id=user.id)

    async def replay(person: Person) -> list[str]:
        answers = await asyncio.gather(
            *(refusal(team.refresh(person.tokens.refresh_token)) for _ in range(8))
        )
        return sorted(answer.reason for answer in answers)

    for reasons in await asyncio.gather(*(replay(person) for person in family)):
        assert reasons == ["REFRESH_TOKEN_REUSED", *["SESSION_REVOKED"] * 7]
    for (child,) in children:
        assert (await refusal(team.refresh(child))).reason == "SESSION_REVOKED"


async def test_a_string_that_is_no_refresh_token_is_invalid(team: Team) -> None:
    ada = await team.person()
    mine = ada.tokens.refresh_token
    middle = "A" if mine[24] != "A" else "B"
    for forged in (
        *("x", "=" * 48, "A" * 48, mine[:-1], mine + "A", mine[:24] + middle + mine[25:]),
        *(ada.tokens.access_token[:500], mine.lower(), "\u00e4" * 20, mine + "\n"),
    ):
        refused = await refusal(team.refresh(forged))
        assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "TOKEN_INVALID")
    assert (await refusal(team.refresh(""))).code is _Code.INVALID_ARGUMENT
    assert (await team.refresh(mine)).refresh_token


# --- throttling


async def test_concurrent_password_guesses_are_all_counted(team: Team) -> None:
    user = await team.register()
    codes = await asyncio.gather(*(guess(team, user.email) for _ in range(24)))
    assert sorted(code.name for code in codes if code) == [
        *["RESOURCE_EXHAUSTED"] * 14,
        *["UNAUTHENTICATED"] * 10,
    ]


async def test_a_successful_login_clears_the_attempts_of_its_account_and_address(
    team: Team,
) -> None:
    user = await team.register()
    for _ in range(2):
        codes = [await guess(team, user.email) for _ in range(9)]
        assert codes == [_Code.UNAUTHENTICATED] * 9
        assert (await team.login(user.email, address=GUESSER)).id == user.id


async def test_a_login_from_another_address_doesnt_clear_the_attempts_of_a_guesser(
    team: Team,
) -> None:
    user = await team.register()
    codes = [await guess(team, user.email) for _ in range(10)]
    assert codes == [_Code.UNAUTHENTICATED] * 10
    assert (await team.login(user.email)).id == user.id
    assert await guess(team, user.email) is _Code.RESOURCE_EXHAUSTED


async def test_wrong_passwords_of_one_account_keep_nobody_else_at_the_address_out(
    team: Team,
) -> None:
    mistyped, other = await team.register(), await team.register("bob")
    for _ in range(11):
        await guess(team, mistyped.email)
    assert (await team.login(other.email, address=GUESSER)).id == other.id


async def test_old_login_attempts_and_ended_sessions_are_deleted(team: Team, db: Database) -> None:
    ada = await team.person()
    await guess(team, ada.email)
    await run_once(db, retention.kinds())
    async with db.read() as tx:
        before = await tx.one(_COUNT_ATTEMPTS)
        assert before is not None
        assert before.n > 0
    await _run(db, _AGE_ATTEMPTS)
    await _run(db, _AGE_ATTEMPTS)
    await _run(db, _EXPIRE, hours=25, user_id=ada.id)
    await run_once(db, retention.kinds())
    async with db.read() as tx:
        after = await tx.one(_COUNT_ATTEMPTS)
        assert after is not None
        assert after.n == 0
        assert await tx.all(_SESSIONS, user_id=ada.id) == []


# --- passwords


async def test_a_password_hash_with_old_parameters_is_renewed_at_login(
    team: Team, db: Database
) -> None:
    user = await team.register()
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    await _run(db, _SET_HASH, hash=weak, user_id=user.id)
    assert (await refusal(team.login(user.email, "wrong password"))).reason == "CREDENTIALS_WRONG"
    for _ in range(2):
        assert (await team.login(user.email)).id == user.id
        async with db.read() as tx:
            row = await tx.one(_HASH, user_id=user.id)
            assert row is not None
            assert row.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_logins_beyond_the_queue_limit_are_refused_at_once(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_QUEUE_LIMIT", 8)
    user = await team.register()
    answers = await asyncio.gather(
        *(team.login(user.email) for _ in range(24)), return_exceptions=True
    )
    refused = [
        read_refusal(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)
    ]
    assert 0 < len(refused) <= 16
    assert {(refusal.code, refusal.reason) for refusal in refused} == {
        (_Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    }
    assert all(refusal.retry_after for refusal in refused)
    assert all(isinstance(answer, Person | grpc.aio.AioRpcError) for answer in answers)
    assert (await team.login(user.email)).id == user.id, "and then it's over"


async def test_an_address_with_many_waiting_passwords_is_refused_by_name_and_others_come_next() -> (
    None
):
    order: list[str] = []

    class Recording(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            order.append(str(password))
            return "hash"

    busy = passwords.Passwords(Recording())
    order.clear()
    # One thread per processor begins at once.
    count = len(passwords._CORES) + passwords._ADDRESS_LIMIT
    flood = [asyncio.create_task(busy.hash(f"flood {n}", "198.51.100.7")) for n in range(count)]
    await asyncio.sleep(0)
    with pytest.raises(DomainError) as caught:
        busy.check_queue("198.51.100.7", new=True)
    assert caught.value.metadata == {"limit": "passwords_at_once", "scope": "address"}
    quiet = busy.hash("quiet", "198.51.100.8")
    login = busy.hash("login", "198.51.100.7", login=True)
    await asyncio.gather(quiet, login, *flood)
    assert max(map(order.index, ("quiet", "login"))) <= len(passwords._CORES) + 3


async def test_continuous_password_hashing_uses_a_fifth_of_a_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Busy(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            return "hash"

    monkeypatch.setattr(passwords, "_CORES", passwords._CORES[:1])
    busy = passwords.Passwords(Busy())
    started = time.monotonic()
    for _ in range(6):
        await busy.hash("a password")
    # Five hashes of 20 ms precede the last one; the budget had 40 ms saved up.
    assert time.monotonic() - started >= (5 * 0.02 - 0.04) / 0.2


async def test_logins_that_would_wait_too_long_on_a_slow_machine_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            time.sleep(0.15)
            return "hash"

    monkeypatch.setattr(passwords, "_LONGEST_WAIT", 0.2)
    busy = passwords.Passwords(Slow())
    waiting = [asyncio.create_task(busy.hash(f"{number}")) for number in range(8)]
    await asyncio.sleep(0.25)
    with pytest.raises(DomainError):
        busy.check_queue(new=True)
    # Neither another address nor a login has to wait for them.
    busy.check_queue("198.51.100.8", new=True)
    busy.check_queue()
    # Cancelled calls leave the queue.
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    busy.check_queue(new=True)
    assert await busy.hash("one more") == "hash"
