"""Checks texts of requests, and brings them into the form that is stored: Unicode NFC."""

import unicodedata
from typing import Final

from services.platform.rpc.errors import invalid
from services.platform.rpc.nfc import nfc

_SEPARATORS: Final = "\u2028\u2029"
# Letters and symbols that Unicode defines as blank: the fillers of Hangul, and the Braille pattern without dots.
_BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"


def stored(text: str) -> str:
    return nfc(text)


def line(field: str, text: str) -> str:
    """A title or name in NFC, without white space around it.

    Raises INVALID_REQUEST if it has a line or paragraph separator, or no character that a reader can see.
    """
    cleaned = stored(text).strip()
    if any(separator in cleaned for separator in _SEPARATORS):
        raise invalid(field, "must be one line")
    if not any(map(_is_visible, cleaned)):
        raise invalid(field, "must not be blank")
    return cleaned


def _is_visible(char: str) -> bool:
    return char not in _BLANK and unicodedata.category(char)[0] not in "CMZ"


def within(field: str, text: str, limit: int) -> str:
    """Returns `text`, which is in NFC. Raises INVALID_REQUEST if it has more than `limit` characters.

    The proto's own limit holds for the client's text; its NFC can be longer.
    """
    if len(text) > limit:
        raise invalid(field, f"is longer than {limit} characters in Unicode NFC")
    return text
