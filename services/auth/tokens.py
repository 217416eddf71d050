"""Access tokens (JWT, ES256) and their keys; refresh tokens, which need no secret in the database."""

import base64
import binascii
import hmac
import time
from dataclasses import dataclass
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import ECKey

from services.auth import keyfiles
from services.platform.config import Settings
from services.platform.errors import DomainError
from services.platform.identity import ALGORITHM
from services.platform.seal import Seal
from taskflow.auth.v1 import auth_service_pb2
from taskflow.error.v1 import error_reason_pb2 as reasons

# How often the folder is looked at (seconds).
_SCAN_INTERVAL = 10.0
# A key is listed for this long (seconds) before it signs, so that by then everybody who verifies has seen it: it's
# longer than a scan here and a refresh there (identity.py) together.
PUBLISHED_BEFORE_USE = 60.0

# Of HMAC-SHA256.
_MAC_BYTES = 16
_GENERATION_BYTES = 4
_REFRESH_TOKEN_BYTES = 16 + _GENERATION_BYTES + _MAC_BYTES


@dataclass(frozen=True)
class _Key:
    kid: str
    private: ECKey
    public: auth_service_pb2.SigningKey
    # Seconds since the epoch.
    listed_since: float


class SigningKeys:
    """The keys in the folder `settings.keys`, as they are now: files that come or go are noticed within seconds.

    In development the first key is made when there is none; in production that ends the process with a sentence.
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
        """All keys that a valid token can be signed with now, or soon, oldest first."""
        keys = self._current()
        # A key that was replaced is listed until the last token that it signed has expired.
        grace = PUBLISHED_BEFORE_USE + 2 * _SCAN_INTERVAL + self._settings.access_token_lifetime
        replaced_before = time.time() - grace
        successors = keys[1:]
        listed = [
            key
            for key, successor in zip(keys, successors, strict=False)
            if successor.listed_since > replaced_before
        ]
        return [key.public for key in (*listed, keys[-1])]

    def access_token(self, user_id: UUID, session_id: UUID, now: int, expires: int) -> str:
        """Times in seconds since the epoch."""
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
        """The newest key that has been listed long enough; the oldest one while none has."""
        keys = self._current()
        soon_enough = time.time() - PUBLISHED_BEFORE_USE
        return next((key for key in reversed(keys) if key.listed_since <= soon_enough), keys[0])

    def _current(self) -> list[_Key]:
        if time.monotonic() - self._scanned >= _SCAN_INTERVAL:
            self._scan()
        return self._keys

    def _scan(self) -> None:
        known = {key.kid: key.listed_since for key in self._keys}
        found = []
        for key, made in keyfiles.read(self._settings.keys):
            # A file that appears while we run can be older than its arrival here.
            arrived = max(made, time.time()) if known else made
            # RFC 7638.
            kid = key.thumbprint()
            found.append(_described(kid, key, known.get(kid, arrived)))
        self._scanned = time.monotonic()
        # A folder that can't be read for a moment is no reason to forget the keys.
        self._keys = found or self._keys


def _described(kid: str, key: ECKey, listed_since: float) -> _Key:
    public = auth_service_pb2.SigningKey(
        kid=kid,
        kty="EC",
        alg=ALGORITHM,
        crv=keyfiles.CURVE,
        x=str(key["x"]),
        y=str(key["y"]),
    )
    return _Key(kid, key, public, listed_since)


def refresh_token(seal: Seal, session_id: UUID, generation: int) -> str:
    """The token of that generation of the session; always the same one."""
    body = session_id.bytes + generation.to_bytes(_GENERATION_BYTES, "big")
    return base64.urlsafe_b64encode(body + _mac(seal, body)).decode()


def read_refresh_token(seal: Seal, token: str) -> tuple[UUID, int]:
    """Session id and generation. Raises TOKEN_INVALID for whatever we didn't make."""
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
