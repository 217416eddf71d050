"""Makes untrusted text safe to store, show and send."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from services.platform.rpc.nfc import nfc

_LINE_ENDS: Final = re.compile("\r\n?|[\u0085\u2028\u2029]")
# Control characters except tab and newline, lone surrogates, bidirectional controls, invisible tag characters, the byte
# order mark and the noncharacters. Joiners stay: emoji and some scripts need them.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ufeff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
)
_JOINERS: Final = frozenset("\u200c\u200d\ufe0e\ufe0f")


def clean_text(text: str) -> str:
    """The text in NFC with plain newlines, without characters that hide, reorder or break text."""
    return nfc(_UNSAFE.sub("", _LINE_ENDS.sub("\n", text)))


def clean_line(text: str) -> str:
    """`clean_text` on one line, with single spaces."""
    return " ".join(clean_text(text).split())


def cut(text: str, limit: int) -> str:
    """Cuts the text to at most `limit` code points, and never between a character and its combining marks."""
    if len(text) <= limit:
        return text
    end = limit
    while end > 0 and _continues(text, end):
        end -= 1
    # No boundary fits when the first character with its marks is longer than the limit.
    return text[: end or limit]


def cut_bytes(text: str, limit: int) -> str:
    """Like `cut`, with the limit in bytes of UTF-8."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= limit:
        return text
    return cut(text, len(encoded[:limit].decode("utf-8", "ignore")))


def _continues(text: str, at: int) -> bool:
    char = text[at]
    return char in _JOINERS or text[at - 1] == "\u200d" or unicodedata.combining(char) != 0
