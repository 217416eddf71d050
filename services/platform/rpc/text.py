"""Checks texts of requests, and brings them into the form that is stored: Unicode NFC."""

from services.platform.rpc.errors import invalid
from services.platform.rpc.nfc import nfc


def stored(text: str) -> str:
    return nfc(text)


def line(field: str, text: str) -> str:
    """A title or name in NFC, without white space around it. Raises INVALID_REQUEST if nothing is left."""
    cleaned = stored(text).strip()
    if not cleaned:
        raise invalid(field, "must not be blank")
    return cleaned


def within(field: str, text: str, limit: int) -> str:
    """Returns `text`, which is in NFC. Raises INVALID_REQUEST if it has more than `limit` characters.

    The proto's own limit holds for the client's text; its NFC can be longer.
    """
    if len(text) > limit:
        raise invalid(field, f"is longer than {limit} characters in Unicode NFC")
    return text
