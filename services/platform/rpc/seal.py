"""Sealed strings: page tokens and cursors. Only TaskFlow can make them, and each is valid for one purpose only."""

import base64
import hashlib
import hmac
import json
from typing import Any

from services.platform.config import Settings

# Bytes of the message authentication code in a sealed string. 96 bits can't be guessed during a secret's lifetime.
_MAC_BYTES = 12


class Seal:
    """Makes and opens sealed strings.

    A string opens only with the `purpose` and `context` that it was made with; neither is part of the string.
    Raises ValueError for settings without a secret.
    """

    def __init__(self, settings: Settings) -> None:
        self._key = settings.token_secret.get_secret_value().encode()
        if not self._key:
            raise ValueError("there is no secret to seal with")

    def derive(self, purpose: str, *parts: bytes) -> bytes:
        """32 bytes derived from purpose and parts, which nobody can compute without the secret."""
        message = b"\0".join((purpose.encode(), *(len(p).to_bytes(4, "big") + p for p in parts)))
        return hmac.digest(self._key, message, hashlib.sha256)

    def close(self, value: Any, *, purpose: str, context: str = "") -> str:
        """Seals a value that JSON can represent."""
        body = json.dumps(value, separators=(",", ":")).encode()
        mac = self.derive(purpose, context.encode(), body)[:_MAC_BYTES]
        return base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode()

    def open(self, sealed: str, *, purpose: str, context: str = "") -> Any:
        """The value in a sealed string. Raises ValueError unless `close` made it with the same purpose and context."""
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ValueError("not sealed by us") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self.derive(purpose, context.encode(), body)[:_MAC_BYTES]):
            raise ValueError("not sealed by us, or for another purpose or context")
        return json.loads(body)
