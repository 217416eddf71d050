"""Text as it is stored: Unicode NFC."""

from services.platform.errors import invalid
from services.platform.nfc import nfc


def stored(text: str) -> str:
    return nfc(text)


def line(field: str, text: str) -> str:
    """A title or name: NFC, without blanks around it. Raises INVALID_REQUEST for one that is empty then."""
    cleaned = stored(text).strip()
    if not cleaned:
        raise invalid(field, "must not be blank")
    return cleaned


def within(field: str, text: str, limit: int) -> str:
    """Raises INVALID_REQUEST for more than `limit` characters: NFC can make a text longer than what came in."""
    if len(text) > limit:
        raise invalid(field, f"is longer than {limit} characters in Unicode NFC")
    return text
