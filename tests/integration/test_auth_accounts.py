"""Promises about accounts: one per e-mail, created once, visible to workspace colleagues."""

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from services import app
from services.platform.config import Settings
from services.platform.data.db import Database, Statement
from taskflow.auth.v1 import auth_service_pb2, user_pb2, user_service_pb2, workspace_pb2
from tests.integration.people import (
    Person,
    Team,
    database,
    events,
    refusal,
    team_at,
)

_Code = grpc.StatusCode


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def db(services: Settings) -> AsyncIterator[Database]:
    async with database(services) as db:
        yield db


async def _update(
    team: Team, person: Person, paths: list[str] | None = None, **fields: object
) -> user_pb2.User:
    answer = await team.users.UpdateCurrentUser(
        user_service_pb2.UpdateCurrentUserRequest(
            user=user_pb2.User(**fields),  # type: ignore[arg-type]
            update_mask=FieldMask(paths=paths) if paths else None,
        ),
        metadata=person.credentials,
    )
    return answer.user


# --- Register


async def test_registering_gives_a_user_with_defaults_and_no_tokens(team: Team) -> None:
    user = await team.register("ada", display_name="  Ada Lovelace ")
    assert user.display_name == "Ada Lovelace"
    assert user.time_zone == "UTC"
    assert user.email_notifications
    assert user.id[14] == "7", "UUIDv7"
    assert user.etag.isalnum()
    assert user.create_time.ToMilliseconds() == user.update_time.ToMilliseconds() > 0
    names = {field.name for field in auth_service_pb2.RegisterResponse.DESCRIPTOR.fields}
    assert names == {"user"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Zoe.{}@Example.COM", "zoe.{}@example.com"),
        ("zo\u00eb.{}@example.com", "zoe\u0308.{}@example.com"),
        ("ZO\u00cb.{}@example.com", "zo\u00eb.{}@example.com"),
        ("stra\u00dfe.{}@example.com", "STRASSE.{}@example.com"),
        ("a.{}@b\u00fccher.example", "A.{}@xn--bcher-kva.example"),
        ("a.{}@B\u00dcCHER.example", "a.{}@bu\u0308cher.example"),
        ("a.{}@\uff45xample.com", "a.{}@example.com"),
    ],
)
async def test_one_canonical_email_has_one_account(team: Team, first: str, second: str) -> None:
    mark = uuid4().hex
    user = await team.register(email=first.format(mark))
    refused = await refusal(team.register(email=second.format(mark)))
    assert (refused.code, refused.reason) == (_Code.ALREADY_EXISTS, "EMAIL_TAKEN")
    assert (await team.login(second.format(mark))).id == user.id


async def test_domains_that_different_people_can_own_are_different_accounts(team: Team) -> None:
    mark = uuid4().hex
    one = await team.register(email=f"{mark}@stra\u00dfe.example")
    other = await team.register(email=f"{mark}@strasse.example")
    assert one.id != other.id


@pytest.mark.parametrize(
    "email",
    [
        *("ada", "@example.com", "ada@", "a@b@example.com", "ada@example..com", "ada@example.com."),
        *("ada@-example.com", "ada@ex_ample.com", "ada@xn--zzzzzzz\u00e4.com", "ada@.com"),
        *("a da@example.com", "ada@example.com\r\nBcc: eve@example.com", "<ada@example.com>"),
        *(".dot@example.com", "dot.@example.com", "a..b@example.com", "a" * 65 + "@example.com"),
        *("\u00e9" * 33 + "@example.com", "a@" + ("\u00fc" * 40 + ".") * 6 + "de"),
        *("ada\u202e@example.com", "ada@" + "a" * 64 + ".com", "a" * 250 + "@example.com"),
        *("ada@\u0301example.com", "a\x00da@example.com", "ada@exa\u200bmple.\u200b"),
    ],
)
async def test_an_email_that_no_mail_can_reach_is_refused_by_its_field(
    team: Team, email: str
) -> None:
    refused = await refusal(team.register(email=email))
    assert (refused.code, refused.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.fields == ["email"]


@pytest.mark.parametrize(
    "local", ["a" * 32, "o'hara+tag", "x_y-z.w", "zo\u00eb", "\u043f\u043e\u0447\u0442\u0430"]
)
async def test_an_unusual_email_that_mail_can_reach_is_accepted(team: Team, local: str) -> None:
    email = f"{local}.{uuid4().hex[:8]}@b\u00fccher.example"
    assert (await team.register(email=email)).email == email


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "nine char"),
        ("password", "x" * 129),
        # Five characters that some keyboards send as ten.
        ("password", "e\u0301" * 5),
        ("password", "correct\x00horse battery"),
        ("display_name", ""),
        ("display_name", " \u2003 "),
        ("display_name", "\u3164"),
        ("display_name", "a\u2028b"),
        ("display_name", "x" * 101),
        ("display_name", "ada\u202egnp"),
        ("display_name", "a\nb"),
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../../etc/passwd"),
        ("time_zone", "europe/berlin"),
        ("time_zone", "localtime"),
        ("request_id", "not-a-uuid"),
    ],
)
async def test_each_field_of_a_registration_keeps_its_rule(
    team: Team, field: str, value: str
) -> None:
    refused = await refusal(team.register(**{field: value}))
    assert (refused.code, refused.reason) == (_Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.fields == [field]


async def test_a_password_is_measured_as_it_is_compared(team: Team) -> None:
    """65 Hangul syllables are 195 characters from a keyboard that sends their parts."""
    password = unicodedata.normalize("NFD", "\uac01" * 65)
    email = f"{uuid4().hex}@example.com"
    await team.register(email=email, password=password)
    await team.login(email, unicodedata.normalize("NFC", password))
    await team.login(email, password)


async def test_a_repeated_registration_returns_the_same_user(team: Team) -> None:
    fields = {"email": f"{uuid4().hex}@example.com", "request_id": str(uuid4())}
    answers = await asyncio.gather(*(team.register(**fields) for _ in range(4)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1


async def test_a_request_id_reused_for_another_registration_is_refused(team: Team) -> None:
    fields = {"email": f"{uuid4().hex}@example.com", "request_id": str(uuid4())}
    await team.register(**fields)
    refused = await refusal(team.register(**fields, password="another password"))
    assert (refused.code, refused.reason) == (_Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert refused.metadata == {"request_id": fields["request_id"]}


async def test_a_failed_registration_does_not_use_up_its_request_id(team: Team) -> None:
    taken = await team.register()
    request_id = str(uuid4())
    refused = await refusal(team.register(email=taken.email, request_id=request_id))
    assert refused.reason == "EMAIL_TAKEN"
    again = await refusal(team.register(email=taken.email, request_id=request_id))
    assert again.reason == "EMAIL_TAKEN"


async def test_of_concurrent_registrations_of_one_email_one_succeeds(team: Team) -> None:
    email = f"{uuid4().hex}@example.com"
    answers = await asyncio.gather(
        *(team.register(email=email) for _ in range(6)), return_exceptions=True
    )
    users = [answer for answer in answers if isinstance(answer, user_pb2.User)]
    assert len(users) == 1
    assert all(
        isinstance(answer, user_pb2.User)
        or (isinstance(answer, grpc.aio.AioRpcError) and answer.code() is _Code.ALREADY_EXISTS)
        for answer in answers
    )


async def test_a_password_is_the_same_in_every_unicode_form(team: Team) -> None:
    user = await team.register(password="pa\u00dfw\u00f6rt \u00e9t\u00e9")
    assert (await team.login(user.email, "pa\u00dfwo\u0308rt e\u0301te\u0301")).id == user.id


# --- the current user


async def test_users_read_their_own_account(team: Team) -> None:
    ada = await team.person()
    assert await team.me(ada.tokens.access_token) == ada.user


async def test_an_update_without_a_mask_sets_the_populated_fields(team: Team) -> None:
    ada = await team.person()
    user = await _update(team, ada, display_name="Countess")
    assert (user.display_name, user.time_zone) == ("Countess", "UTC")
    assert user.email_notifications, "false isn't populated"
    assert user.etag != ada.user.etag
    assert user.update_time.ToNanoseconds() > ada.user.update_time.ToNanoseconds()


async def test_a_mask_names_the_fields_to_set_and_a_star_means_all(team: Team) -> None:
    ada = await team.person()
    user = await _update(team, ada, ["email_notifications"], display_name="ignored")
    assert not user.email_notifications
    assert user.display_name == ada.user.display_name
    user = await _update(team, ada, ["*"], display_name="A", email_notifications=True)
    assert (user.display_name, user.time_zone, user.email_notifications) == ("A", "UTC", True)


@pytest.mark.parametrize("paths", [["nickname"], ["password_hash"], ["*", "display_name"]])
async def test_an_unknown_path_is_refused(team: Team, paths: list[str]) -> None:
    refused = await refusal(_update(team, await team.person(), paths, display_name="x"))
    assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["update_mask"])


async def test_output_only_fields_are_never_set(team: Team) -> None:
    ada = await team.person()
    user = await _update(
        team,
        ada,
        ["id", "email", "create_time", "display_name"],
        id=str(uuid4()),
        email="eve@example.com",
        display_name="Eve",
    )
    assert (user.id, user.email, user.display_name) == (ada.id, ada.email, "Eve")
    assert user.create_time == ada.user.create_time


async def test_clearing_the_name_is_refused_and_clearing_the_zone_means_utc(team: Team) -> None:
    ada = await team.person()
    await _update(team, ada, time_zone="Europe/Berlin")
    refused = await refusal(_update(team, ada, ["display_name"]))
    assert (refused.code, refused.fields) == (_Code.INVALID_ARGUMENT, ["user.display_name"])
    assert (await _update(team, ada, ["time_zone"])).time_zone == "UTC"


async def test_a_stale_user_etag_aborts_and_returns_the_current_one(team: Team) -> None:
    ada = await team.person()
    changed = await _update(team, ada, display_name="B", etag=ada.user.etag)
    refused = await refusal(_update(team, ada, display_name="C", etag=ada.user.etag))
    assert (refused.code, refused.reason) == (_Code.ABORTED, "ETAG_MISMATCH")
    assert refused.metadata == {"etag": changed.etag}


async def test_only_a_change_of_time_zone_emits_an_event(team: Team, db: Database) -> None:
    ada = await team.person()
    await _update(team, ada, display_name="Countess")
    await _update(team, ada, time_zone="UTC")
    assert await events(db, "taskflow._.user.%", ada.id) == []
    user = await _update(team, ada, time_zone="Asia/Tokyo")
    (event,) = await events(db, "taskflow._.user.%", ada.id)
    assert (event.type, event.workspace_id, event.actor_id) == (
        "user.time_zone_changed",
        "",
        ada.id,
    )
    assert event.time_zone_changed.user_id == ada.id
    assert event.revision == 3
    refused = await refusal(_update(team, ada, time_zone="Asia/Nowhere"))
    assert refused.fields == ["user.time_zone"]
    assert (await team.me(ada.tokens.access_token)) == user


# --- colleagues


async def test_batch_get_returns_the_caller_and_workspace_colleagues_in_the_requested_order(
    team: Team,
) -> None:
    ada, bob, eve = await asyncio.gather(*(team.person(name) for name in ("ada", "bob", "eve")))
    workspace = await team.workspace(ada)
    await team.add(ada, workspace.id, bob.email, workspace_pb2.ROLE_VIEWER)

    async def seen(caller: Person, *ids: str) -> list[str]:
        answer = await team.users.BatchGetUsers(
            user_service_pb2.BatchGetUsersRequest(ids=ids), metadata=caller.credentials
        )
        return [user.id for user in answer.users]

    assert await seen(bob, ada.id, eve.id, str(uuid4()), bob.id, ada.id) == [ada.id, bob.id]
    assert await seen(eve, ada.id, bob.id) == []
    await team.remove(bob, workspace.id, bob.id)
    assert await seen(bob, ada.id, bob.id) == [bob.id]


async def test_a_batch_has_1_to_100_uuids(team: Team) -> None:
    ada = await team.person()
    for ids in ([], [str(uuid4())] * 101, ["x"]):
        refused = await refusal(
            team.users.BatchGetUsers(
                user_service_pb2.BatchGetUsersRequest(ids=ids), metadata=ada.credentials
            )
        )
        assert refused.code is _Code.INVALID_ARGUMENT


# --- secrets


# --- operators


async def test_only_the_user_with_the_given_email_becomes_an_operator(
    services: Settings, team: Team, db: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    user = await team.register("root", email=f"Root.{uuid4().hex}@B\u00fccher.example")
    other = await team.register()
    assert await app.grant_operator(services, user.email.upper())
    assert not await app.grant_operator(services, "nobody@example.com")
    assert not await app.grant_operator(services, "no e-mail")
    printed = capsys.readouterr().out
    assert f"{user.email.upper()} is an operator now.\n" in printed
    assert "Nobody is registered as nobody@example.com.\n" in printed
    async with db.read() as tx:
        rows = await tx.all(
            Statement(text("SELECT id, operator FROM auth.users WHERE id IN (:a, :b)")),
            a=user.id,
            b=other.id,
        )
    assert {str(row.id): row.operator for row in rows} == {user.id: True, other.id: False}
