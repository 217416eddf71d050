"""Access tokens (JWT, ES256) and the keys that sign them; refresh tokens, sealed with the server's secret."""

import base64
import binascii
import hmac
import time
from dataclasses import dataclass
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import ECKey

from services.auth.sessions import keyfiles
from services.platform.config import Settings
from services.platform.rpc.errors import DomainError
from services.platform.rpc.identity import ALGORITHM
from services.platform.rpc.seal import Seal
from taskflow.auth.v1 import auth_service_pb2
from taskflow.error.v1 import error_reason_pb2 as reasons

# Seconds between two scans of the folder with signing keys.
_SCAN_INTERVAL = 10.0
# A key is published for this long (seconds) before it signs, so that every service knows it by then. This is longer
# than a scan here plus a key fetch in the other services (identity.py).
PUBLISHED_BEFORE_USE = 60.0

# Bytes of the truncated HMAC-SHA256 in a refresh token.
_MAC_BYTES = 16
_GENERATION_BYTES = 4
_REFRESH_TOKEN_BYTES = 16 + _GENERATION_BYTES + _MAC_BYTES


@dataclass(frozen=True)
class _Key:
    kid: str
    private: ECKey
    public: auth_service_pb2.SigningKey
    # Since when the key has been published (seconds since the epoch).
    published_since: float


class SigningKeys:
    """The signing keys in the folder `settings.keys`. It notices added and removed files within seconds.

    If the folder has no key, a process in development creates one, and a process in production exits with an error.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys: list[_Key] = []
        if settings.environment == "development":
            keyfiles.create_first(settings.keys)
        self._scan()
        if not self._keys:
            raise SystemExit(
                f"There is no usable signing key in {settings.keys}. "
                "Make one with: python -m services rotate-keys"
            )

    async def public_keys(self) -> list[auth_service_pb2.SigningKey]:
        """The public keys of all valid access tokens, and of the key that signs next; oldest first."""
        keys = self._current()
        # A replaced key stays published until the last token that it signed has expired.
        grace = PUBLISHED_BEFORE_USE + 2 * _SCAN_INTERVAL + self._settings.access_token_lifetime
        replaced_before = time.time() - grace
        successors = keys[1:]
        replaced = [
            key
            for key, successor in zip(keys, successors, strict=False)
            if successor.published_since > replaced_before
        ]
        return [key.public for key in (*replaced, keys[-1])]

    def access_token(self, user_id: UUID, session_id: UUID, now: int, expires: int) -> str:
        """Makes a signed access token that is valid from `now` to `expires` (seconds since the epoch)."""
        key = self._signing()
        issuer = self._settings.token_issuer
        return jwt.encode(
            {"alg": ALGORITHM, "kid": key.kid},
            {
                "iss": issuer,
                "aud": issuer,
                "sub": str(user_id),
                "sid": str(session_id),
                "typ": "access",
                "iat": now,
                "exp": expires,
            },
            key.private,
            algorithms=[ALGORITHM],
        )

    def _signing(self) -> _Key:
        """The key that signs: the newest one that has been published long enough; if there is none, the oldest key."""
        keys = self._current()
        soon_enough = time.time() - PUBLISHED_BEFORE_USE
        return next((key for key in reversed(keys) if key.published_since <= soon_enough), keys[0])

    def _current(self) -> list[_Key]:
        if time.monotonic() - self._scanned >= _SCAN_INTERVAL:
            self._scan()
        return self._keys

    def _scan(self) -> None:
        known = {key.kid: key.published_since for key in self._keys}
        found = []
        for key, made in keyfiles.read(self._settings.keys):
            # A key file that arrives while this process runs counts as published from now on, however old it is.
            arrived = max(made, time.time()) if known else made
            # The key id is the thumbprint after RFC 7638.
            kid = key.thumbprint()
            found.append(_described(kid, key, known.get(kid, arrived)))
        self._scanned = time.monotonic()
        # Keeps the known keys if the scan found none, as when the folder can't be read.
        self._keys = found or self._keys


def _described(kid: str, key: ECKey, published_since: float) -> _Key:
    public = auth_service_pb2.SigningKey(
        kid=kid,
        kty="EC",
        alg=ALGORITHM,
        crv=keyfiles.CURVE,
        x=str(key["x"]),
        y=str(key["y"]),
    )
    return _Key(kid, key, public, published_since)


def refresh_token(seal: Seal, session_id: UUID, generation: int) -> str:
    """The refresh token of a session and generation. The same arguments give the same token."""
    body = session_id.bytes + generation.to_bytes(_GENERATION_BYTES, "big")
    return base64.urlsafe_b64encode(body + _mac(seal, body)).decode()


def read_refresh_token(seal: Seal, token: str) -> tuple[UUID, int]:
    """Session id and generation in a refresh token. Raises TOKEN_INVALID unless `refresh_token` made it."""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID) from None
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if len(raw) != _REFRESH_TOKEN_BYTES or not hmac.compare_digest(mac, _mac(seal, body)):
        raise DomainError(reasons.ERROR_REASON_TOKEN_INVALID)
    return UUID(bytes=body[:16]), int.from_bytes(body[16:], "big")


def _mac(seal: Seal, body: bytes) -> bytes:
    return seal.derive("refresh", body)[:_MAC_BYTES]
