"""Text as it is stored: Unicode NFC."""

import unicodedata
from itertools import groupby

from services.platform.errors import invalid

# unicodedata sorts the marks after a letter in quadratic time. Up to this many that takes microseconds.
_LONG_RUN = 100
# The characters that count as letters and consist of marks.
_MARKS_ONLY = "\u0f73\u0f75\u0f81"


def stored(text: str) -> str:
    if len(text) > _LONG_RUN and not text.isascii() and _longest_run(text) > _LONG_RUN:
        text = _in_order(text)
    return unicodedata.normalize("NFC", text)


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


def _is_mark(character: str) -> bool:
    return unicodedata.combining(character) != 0 or character in _MARKS_ONLY


def _longest_run(text: str) -> int:
    """Marks in a row, at most."""
    runs = (sum(1 for _ in run) for marks, run in groupby(text, _is_mark) if marks)
    return max(runs, default=0)


def _in_order(text: str) -> str:
    """The text in NFD, its marks sorted in n log n: normalizing that finds nothing left to sort."""
    parts = (unicodedata.normalize("NFD", character) for character in text)
    runs = groupby("".join(parts), lambda character: unicodedata.combining(character) != 0)
    return "".join(
        "".join(sorted(run, key=unicodedata.combining) if marks else run) for marks, run in runs
    )
