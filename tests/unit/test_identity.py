"""Promises about access tokens while the auth service can't return the signing keys."""

import time
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from services.platform.rpc.identity import ALGORITHM, Identity
from taskflow.auth.v1.auth_service_pb2 import SigningKey
from taskflow.auth.v1.workspace_pb2 import ROLE_UNSPECIFIED


class Keys:
    """The auth service's keys, or an outage."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "ours"})
        self.away = False
        self.asked = 0

    async def __call__(self) -> list[SigningKey]:
        self.asked += 1
        if self.away:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()
            )
        public = self.key.as_dict(private=False)
        return [SigningKey(**{name: str(public[name]) for name in ("kid", "kty", "crv", "x", "y")})]

    def token(self, settings: Settings, kid: str = "ours") -> str:
        now = int(time.time())
        claims = {
            "iss": settings.token_issuer,
            "aud": settings.token_issuer,
            "typ": "access",
            "sub": str(uuid4()),
            "sid": str(uuid4()),
            "iat": now,
            "exp": now + 60,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": kid}, claims, self.key)


async def test_an_unknown_key_is_fetched_once_while_auth_is_down() -> None:
    settings, keys = Settings(), Keys()
    keys.away = True
    identity = Identity(settings, keys)
    for kid in ("ours", "forged", "another"):
        with pytest.raises(DomainError) as refused:
            await identity.caller(keys.token(settings, kid), ROLE_UNSPECIFIED)
        # The answer is UNAVAILABLE, because the token may be valid and the client must not discard it.
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    assert keys.asked == 1


async def test_known_keys_stay_in_use_while_auth_is_down() -> None:
    settings, keys = Settings(), Keys()
    identity = Identity(settings, keys)
    await identity.refresh_keys()
    keys.away = True
    assert await identity.caller(keys.token(settings), ROLE_UNSPECIFIED)
    assert keys.asked == 1
