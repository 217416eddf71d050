"""Opaque strings that only we can make: page tokens and cursors, bound to what they are for."""

import base64
import hashlib
import hmac
import json
from typing import Any

from services.platform.config import Settings

# 96 bits: guessing one takes longer than any secret lives.
_MAC_BYTES = 12


class Seal:
    """Makes and opens sealed strings; `purpose` and `context` aren't in the string, but it opens only with the same."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.token_secret.get_secret_value().encode()

    def derive(self, purpose: str, *parts: bytes) -> bytes:
        """32 bytes that nobody without the secret can compute."""
        message = b"\0".join((purpose.encode(), *(len(p).to_bytes(4, "big") + p for p in parts)))
        return hmac.digest(self._key, message, hashlib.sha256)

    def close(self, value: Any, *, purpose: str, context: str = "") -> str:
        """`value` is anything that JSON can hold."""
        body = json.dumps(value, separators=(",", ":")).encode()
        mac = self.derive(purpose, context.encode(), body)[:_MAC_BYTES]
        return base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode()

    def open(self, sealed: str, *, purpose: str, context: str = "") -> Any:
        """Raises ValueError for whatever wasn't made by `close` with the same purpose and context."""
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ValueError("not sealed by us") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self.derive(purpose, context.encode(), body)[:_MAC_BYTES]):
            raise ValueError("not sealed by us, or for something else")
        return json.loads(body)
