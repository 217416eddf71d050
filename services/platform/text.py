"""Text as it is stored: Unicode NFC."""

import unicodedata

from services.platform.errors import invalid


def stored(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def line(field: str, text: str) -> str:
    """A title or name: NFC, without blanks around it. Raises INVALID_REQUEST for one that is empty then."""
    cleaned = stored(text).strip()
    if not cleaned:
        raise invalid(field, "must not be blank")
    return cleaned
