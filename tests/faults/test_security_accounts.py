"""Security promises 1 to 4, by number: tokens, keys, password guessing, and stored data.

`make faults ONLY=logins` tests that 200 logins a second don't delay reads and writes.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from joserfc.jwk import ECKey
from sqlalchemy import text

from deploy.local.ports import free_ports
from services.auth.sessions import keyfiles, tokens
from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from services.platform.rpc import identity
from tests.conftest import serving
from tests.faults.forged_tokens import FORGERIES, claims_of, header_of, signed, signing_key
from tests.integration.people import (
    GUESSER,
    Person,
    Refusal,
    Team,
    database,
    guess,
    read_refusal,
    refusal,
    team_at,
)

_Code = grpc.StatusCode
# The shortest allowed lifetime of an access token (seconds).
_LIFETIME = 10
_TRIES = 500
# Wrong passwords before an account is throttled.
_UNTHROTTLED = 9

# Tests let time pass by moving stored times into the past.
_AGE_ATTEMPTS = Statement(
    text("UPDATE auth.login_attempts SET attempted_at = now() - interval '14 min 58 s'")
)
_FORGET_ATTEMPTS = Statement(text("DELETE FROM auth.login_attempts"))
_REPEAT_ATTEMPTS = Statement(
    text(
        "INSERT INTO auth.login_attempts (key)"
        " SELECT key FROM auth.login_attempts, generate_series(1, 98)"
    )
)


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


@pytest.fixture
async def ada(team: Team) -> Person:
    return await team.person()


async def _run(db: Database, statement: Statement) -> None:
    async with db.transaction() as tx:
        await tx.run(statement)


# --- 1: forged tokens are refused, and cause no outgoing request


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_1_a_forged_token_is_refused_as_unauthenticated(
    team: Team, services: Settings, ada: Person, forgery: str
) -> None:
    token = FORGERIES[forgery](header_of(ada), claims_of(ada), signing_key(services))
    refused = await refusal(team.me(token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_1_the_same_token_without_forgery_is_accepted(
    team: Team, services: Settings, ada: Person
) -> None:
    token = signed(header_of(ada), claims_of(ada), signing_key(services))
    assert (await team.me(token)).id == ada.id


async def test_1_no_token_makes_the_server_fetch_a_url(
    team: Team, services: Settings, ada: Person
) -> None:
    asked = asyncio.Event()
    listener = await asyncio.start_server(lambda *_: asked.set(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/keys"
    stranger = ECKey.generate_key("P-256")
    async with listener:
        for header in ({"jku": url}, {"x5u": url}, {"jku": url, "kid": "theirs"}, {"kid": url}):
            token = signed({**header_of(ada), **header}, claims_of(ada), stranger)
            assert (await refusal(team.me(token))).reason == "TOKEN_INVALID"
        await asyncio.sleep(0.2)
    assert not asked.is_set()


async def test_1_a_refresh_token_is_no_access_token(team: Team, ada: Person) -> None:
    refused = await refusal(team.me(ada.tokens.refresh_token))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "TOKEN_INVALID")


# --- 2: keys rotate under load, and retired keys are refused


async def test_2_keys_rotate_under_load_without_failures_and_a_retired_key_is_refused(
    services: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_SCAN_INTERVAL", 0.05)
    monkeypatch.setattr(tokens, "PUBLISHED_BEFORE_USE", 0.5)
    monkeypatch.setattr(identity, "_KEY_FETCH_INTERVAL", 0.1)
    ports = dict(zip(("auth_port", "auth_http_port"), free_ports(2), strict=True))
    given = {"signing_key_dir": tmp_path, "access_token_lifetime": _LIFETIME}
    settings = Settings(**{**services.model_dump(), **ports, **given})
    signers: set[str] = set()
    done = asyncio.Event()

    async def work(team: Team) -> int:
        person = await team.person()
        calls = 0
        while not done.is_set():
            fresh = await team.refresh(person.tokens.refresh_token)
            person = Person(person.user, fresh)
            signers.add(header_of(person)["kid"])
            assert (await team.me(fresh.access_token)).id == person.id
            calls += 2
        return calls

    async with serving("auth", settings), team_at(settings) as team:
        first = await team.person()
        key = signing_key(settings)
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work(team)) for _ in range(4)]
            for _ in range(3):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(keyfiles.create, tmp_path)
                await asyncio.sleep(0.7)
            replaced = time.monotonic()
            # Tokens signed with the old key stay valid until they expire.
            await asyncio.sleep(_LIFETIME - 5)
            assert (await team.me(first.tokens.access_token)).id == first.id
            # An attacker who kept the retired key keeps signing.
            while await _accepted(team, first, key):
                assert time.monotonic() - replaced < _LIFETIME + 5
                await asyncio.sleep(0.2)
            done.set()
        assert sum(worker.result() for worker in workers) > 50
    assert len(signers) == 4


async def _accepted(team: Team, person: Person, key: ECKey) -> bool:
    """Whether a token signed with this key now is accepted."""
    now = int(time.time())
    claims = {**claims_of(person), "iat": now, "exp": now + _LIFETIME}
    try:
        await team.me(signed(header_of(person), claims, key))
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason != "TOKEN_INVALID"
    return True


# --- 3: neither an account's existence nor its password can be guessed


async def test_3_unknown_email_and_wrong_password_get_equal_answers_in_equal_time(
    team: Team,
) -> None:
    known = [await team.register() for _ in range(_TRIES // 2 // _UNTHROTTLED + 1)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    answers: set[tuple[object, ...]] = set()

    async def attempt(email: str, exists: bool) -> None:
        started = time.perf_counter()
        refused: Refusal = await refusal(team.login(email, "wrong password"))
        seconds[exists].append(time.perf_counter() - started)
        answers.add((refused.code, refused.message, refused.reason, *refused.metadata))

    for number in range(_TRIES // 2):
        await attempt(known[number % len(known)].email, True)
        await attempt(f"{uuid4().hex}@example.com", False)
    assert answers == {(_Code.UNAUTHENTICATED, "e-mail or password is wrong", "CREDENTIALS_WRONG")}
    there, not_there = (statistics.median(seconds[exists]) for exists in (True, False))
    # If the server skipped the hash for unknown e-mails, these logins would take a fifth of the time.
    assert abs(there - not_there) < max(0.005, 0.2 * there)


async def test_3_the_11th_wrong_password_for_an_account_from_an_address_is_refused(
    team: Team, db: Database
) -> None:
    ada = await team.person()
    bob = await team.person("bob")
    codes = [await guess(team, ada.email.upper()) for _ in range(10)]
    assert codes == [_Code.UNAUTHENTICATED] * 10
    refused = await refusal(team.login(ada.email, address=GUESSER))
    assert (refused.code, refused.reason) == (_Code.RESOURCE_EXHAUSTED, "LOGIN_THROTTLED")
    assert refused.retry_after is not None
    assert 14 * 60 < refused.retry_after <= 15 * 60
    assert (await team.me(ada.tokens.access_token)).id == ada.id, "a known session goes on"
    assert await team.refresh(ada.tokens.refresh_token)
    assert (await team.login(ada.email)).id == ada.id, "the owner gets in from elsewhere"
    assert (await team.login(bob.email, address=GUESSER)).id == bob.id, "nobody else is locked out"

    await _run(db, _AGE_ATTEMPTS)
    refused = await refusal(team.login(ada.email, address=GUESSER))
    assert refused.retry_after is not None
    assert refused.retry_after <= 2
    await asyncio.sleep(refused.retry_after + 0.1)
    assert (await team.login(ada.email, address=GUESSER)).id == ada.id


async def test_3_the_101st_wrong_password_for_an_account_is_refused_from_any_address(
    team: Team, db: Database
) -> None:
    ada = await team.person()
    await _run(db, _FORGET_ATTEMPTS)
    assert await guess(team, ada.email) is _Code.UNAUTHENTICATED
    # As if it had been guessed by now 99 times. Hashing that many takes ten seconds.
    await _run(db, _REPEAT_ATTEMPTS)
    assert await guess(team, ada.email, "203.0.113.5") is _Code.UNAUTHENTICATED
    refused = await refusal(team.login(ada.email, address="203.0.113.6"))
    assert (refused.code, refused.reason) == (_Code.RESOURCE_EXHAUSTED, "LOGIN_THROTTLED")


async def test_3_unknown_emails_are_throttled_like_known_ones(team: Team) -> None:
    email = f"{uuid4().hex}@example.com"
    codes = [await guess(team, email) for _ in range(11)]
    assert codes == [_Code.UNAUTHENTICATED] * 10 + [_Code.RESOURCE_EXHAUSTED]


async def test_3_the_11th_wrong_password_from_an_address_is_refused_by_every_process(
    services: Settings, team: Team, db: Database
) -> None:
    ada = await team.person()
    await _run(db, _FORGET_ATTEMPTS)
    grpc_port, http_port = free_ports(2)
    strict = services.model_copy(
        update={
            "auth_port": grpc_port,
            "auth_http_port": http_port,
            "login_attempts_per_address": 10,
        }
    )
    # The settings object caches addresses that were read.
    strict = Settings(**strict.model_dump())
    async with serving("auth", strict), team_at(strict) as other:

        async def unknown(team: Team, address: str) -> grpc.StatusCode | None:
            return await guess(team, f"{uuid4().hex}@example.com", address)

        spoofed = "203.0.113.9, 198.51.100.7"
        assert [await unknown(team, spoofed) for _ in range(5)] == [_Code.UNAUTHENTICATED] * 5
        assert [await unknown(other, spoofed) for _ in range(6)] == [
            *[_Code.UNAUTHENTICATED] * 5,
            _Code.RESOURCE_EXHAUSTED,
        ]
        assert await unknown(other, "10.0.0.1, 198.51.100.7") is _Code.RESOURCE_EXHAUSTED
        assert await unknown(other, "198.51.100.8") is _Code.UNAUTHENTICATED
        assert await unknown(other, "198.51.100.7, 198.51.100.8") is _Code.UNAUTHENTICATED
        assert (await other.login(ada.email)).id == ada.id, "from another address"

        for i in range(10):
            assert await unknown(other, f"2001:db8:1:2::{i}") is _Code.UNAUTHENTICATED
        assert await unknown(other, "2001:db8:1:2:ffff::1") is _Code.RESOURCE_EXHAUSTED
        assert await unknown(other, "2001:db8:1:3::1") is _Code.UNAUTHENTICATED


# --- 4: stored data is useless to an attacker


async def test_4_a_database_dump_contains_nothing_usable_to_log_in(
    team: Team, db: Database
) -> None:
    user = await team.register(request_id=str(uuid4()), password="planted secret password")
    ada = await team.login(user.email, "planted secret password")
    newer = await team.refresh(ada.tokens.refresh_token)
    await refusal(team.login(user.email, "planted wrong password"))
    async with db.read() as tx:
        tables = await tx.all(
            Statement(
                text(
                    "SELECT schemaname, tablename FROM pg_tables"
                    " WHERE schemaname IN ('auth', 'platform')"
                )
            )
        )
        assert len(tables) >= 10
        dump = ""
        for schema, name in tables:
            lines = Statement(text(f'SELECT t::text AS line FROM "{schema}"."{name}" t'))
            dump += "\n".join(str(row.line) for row in await tx.all(lines))
    assert ada.id in dump
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in dump
    for secret in (
        *("planted secret password", "planted wrong password", "127.0.0.1"),
        *(ada.tokens.access_token, ada.tokens.refresh_token),
        *(newer.access_token, newer.refresh_token),
    ):
        assert secret not in dump
        assert secret.encode().hex() not in dump
