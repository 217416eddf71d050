"""Promises about access tokens and the keys that sign them."""

import asyncio
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey

from services.auth.sessions import keyfiles, tokens
from services.platform.config import Settings
from taskflow.auth.v1 import auth_service_pb2, user_service_pb2
from tests.faults.forged_tokens import claims_of, header_of, part, signed, signing_key
from tests.integration.people import Person, Team, bearer, refusal, team_at

_Code = grpc.StatusCode


@pytest.fixture
async def team(services: Settings) -> AsyncIterator[Team]:
    async with team_at(services) as team:
        yield team


@pytest.fixture
async def ada(team: Team) -> Person:
    return await team.person()


# --- what a token says


async def test_an_access_token_names_issuer_audience_user_session_and_times(
    services: Settings, ada: Person
) -> None:
    claims = claims_of(ada)
    assert claims.pop("iss") == claims.pop("aud") == services.token_issuer
    assert claims.pop("sub") == ada.id
    assert UUID(claims.pop("sid"))
    assert claims.pop("typ") == "access"
    assert claims.pop("exp") - claims.pop("iat") == services.access_token_lifetime
    assert claims == {}


async def test_signing_keys_are_public_and_verify_tokens_anywhere(team: Team, ada: Person) -> None:
    answer = await team.auth.GetSigningKeys(auth_service_pb2.GetSigningKeysRequest())
    (listed,) = (key for key in answer.keys if key.kid == header_of(ada)["kid"])
    assert (listed.kty, listed.alg, listed.crv) == ("EC", "ES256", "P-256")
    members = {"crv": listed.crv, "kty": listed.kty, "x": listed.x, "y": listed.y}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    assert listed.kid == part(hashlib.sha256(canonical).digest()), "RFC 7638"
    key = ECKey.import_key({**members})
    assert jwt.decode(ada.tokens.access_token, key, algorithms=["ES256"]).claims["sub"] == ada.id


async def test_a_token_naming_another_users_session_is_refused(
    team: Team, services: Settings, ada: Person
) -> None:
    bob = await team.person("bob")
    claims = {**claims_of(ada), "sub": bob.id}
    refused = await refusal(team.me(signed(header_of(ada), claims, signing_key(services))))
    assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "SESSION_REVOKED")


async def test_credentials_must_be_one_bearer_token(team: Team, ada: Person) -> None:
    token = ada.tokens.access_token
    for metadata in (
        (),
        (("authorization", ""),),
        (("authorization", token),),
        (("authorization", f"Basic {token}"),),
        (*bearer(token), *bearer(token)),
        (("authorization-bin", f"Bearer {token}".encode()),),
    ):
        refused = await refusal(
            team.users.GetCurrentUser(user_service_pb2.GetCurrentUserRequest(), metadata=metadata)
        )
        assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    for text in ("x", "a.b.c", "..", "a" * 4000, token[:-2], f"{token}.x"):
        refused = await refusal(team.me(text))
        assert (refused.code, refused.reason) == (_Code.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_an_unauthenticated_caller_gets_no_validation_errors(team: Team) -> None:
    request = user_service_pb2.BatchGetUsersRequest(ids=["not a uuid"])
    refused = await refusal(team.users.BatchGetUsers(request))
    assert refused.code is _Code.UNAUTHENTICATED


# --- keys


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key folder, re-read whenever a key is needed."""
    monkeypatch.setattr(tokens, "_SCAN_INTERVAL", 0)
    return tmp_path / "keys"


def _age(file: Path, seconds: float) -> Path:
    """Make the key this old. Its name carries its age, except that of the first key."""
    then = time.time() - seconds
    os.utime(file, (then, then))
    if file.name == "0-first.pem":
        return file
    return file.rename(file.with_name(f"{datetime.fromtimestamp(then, UTC):%Y%m%dT%H%M%S.%fZ}.pem"))


async def _kids(keys: tokens.SigningKeys) -> list[str]:
    return [key.kid for key in await keys.public_keys()]


def _signer(keys: tokens.SigningKeys) -> str:
    now = int(time.time())
    token = keys.access_token(uuid4(), uuid4(), now, now + 60)
    return str(jws.extract_compact(token.encode()).headers()["kid"])


async def test_the_first_signing_key_is_created_once_and_readable_by_its_owner_only(
    tmp_path: Path,
) -> None:
    program = (
        "import pathlib, sys; from services.auth.sessions import keyfiles;"
        "folder = pathlib.Path(sys.argv[1]); keyfiles.create_first(folder);"
        "print([key.thumbprint() for key, _ in keyfiles.read(folder)])"
    )
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(tmp_path / "keys")),
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]
    answers = {(await process.communicate())[0] for process in started}
    assert len(answers) == 1
    (file,) = (tmp_path / "keys").iterdir()
    (kid,) = await _kids(tokens.SigningKeys(Settings(signing_key_dir=file.parent)))
    assert kid.encode() in answers.pop()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_production_never_generates_a_signing_key(tmp_path: Path) -> None:
    settings = Settings(
        environment="production",
        token_secret="t" * 32,
        service_secret="s" * 32,
        signing_key_dir=tmp_path,
        reflection=False,
    )
    with pytest.raises(SystemExit, match="rotate-keys"):
        tokens.SigningKeys(settings)
    keyfiles.create(tmp_path)
    assert len(await _kids(tokens.SigningKeys(settings))) == 1


async def test_a_new_key_is_listed_a_minute_before_it_signs(folder: Path) -> None:
    settings = Settings(signing_key_dir=folder)
    keys = tokens.SigningKeys(settings)
    _age(folder / "0-first.pem", 86400)
    keys = tokens.SigningKeys(settings)
    (first,) = await _kids(keys)
    file = keyfiles.create(folder)
    both = await _kids(keys)
    assert both[0] == first
    assert len(both) == 2
    assert _signer(keys) == first
    file = _age(file, 59)
    assert _signer(tokens.SigningKeys(settings)) == first
    _age(file, 61)
    assert _signer(tokens.SigningKeys(settings)) == both[1]
    assert _signer(keys) == first, "to those who saw it later, it's newer"


async def test_a_replaced_key_is_listed_until_its_last_token_has_expired(folder: Path) -> None:
    settings = Settings(signing_key_dir=folder, access_token_lifetime=300)
    tokens.SigningKeys(settings)
    _age(folder / "0-first.pem", 86400)
    file = _age(keyfiles.create(folder), 60 + 300 - 5)
    assert len(await _kids(tokens.SigningKeys(settings))) == 2
    _age(file, 60 + 300 + 5)
    keys = tokens.SigningKeys(settings)
    assert await _kids(keys) == [_signer(keys)]


async def test_copies_of_the_key_folder_agree_on_the_current_key(
    folder: Path, tmp_path: Path
) -> None:
    """A mounted secret loses its file times: restarted processes would otherwise sign with the oldest key."""
    for age in (7200, 3600, 61):
        _age(keyfiles.create(folder), age)
    # Copy the key files without their modification times, as a mounted secret does.
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    here, there = (tokens.SigningKeys(Settings(signing_key_dir=each)) for each in (folder, copy))
    assert _signer(here) == _signer(there) == (await _kids(here))[-1]
    assert await _kids(here) == await _kids(there)


async def test_a_prepared_key_signs_only_after_all_copies_had_time_to_arrive(
    folder: Path,
) -> None:
    settings = Settings(signing_key_dir=folder)
    old = _age(keyfiles.create(folder), 3600)
    file = keyfiles.create(folder, ahead=600)
    assert file.name > old.name
    first, second = await _kids(tokens.SigningKeys(settings))
    file = _age(file, -30)
    assert _signer(tokens.SigningKeys(settings)) == first
    _age(file, 61)
    assert _signer(tokens.SigningKeys(settings)) == second


async def test_invalid_key_files_and_a_missing_key_folder_change_nothing(
    folder: Path,
) -> None:
    keys = tokens.SigningKeys(Settings(signing_key_dir=folder))
    before = await _kids(keys)
    (folder / "1.pem").write_text("-----BEGIN PRIVATE KEY-----\nhalf")
    (folder / "2.pem").write_bytes(ECKey.generate_key("P-384").as_pem(private=True))
    (folder / "3.pem").write_bytes(ECKey.generate_key("P-256").as_pem(private=False))
    assert await _kids(keys) == before
    os.rename(folder, folder.with_name("elsewhere"))
    assert await _kids(keys) == before
    assert _signer(keys) == before[0]
