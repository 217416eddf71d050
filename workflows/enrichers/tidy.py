"""Makes a description easier to read without changing a word of it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from workflows.enrichers.types import MAX_DESCRIPTION


class Tidied(NamedTuple):
    text: str
    reason: str


# A list needs three items to be worth its lines.
_MIN_ITEMS = 3

# Anything where spaces or separators carry meaning is left alone.
_VERBATIM: Final = re.compile(
    r"```|~~~|^(?: {4}|\t)\S|^[ \t]*\||^>|\{|\}|</|&&|\$ |;[ \t]*$|(?<!\S)(?>\S*?https?://)\S*;",
    re.M,
)
_INTRODUCED: Final = re.compile(r"^([^\n:;.]{1,60}:)\s++([^\n;]*+;[^\n]*+)$", re.M)
_NUMBERED: Final = re.compile(r"(?<!\S)(\d{1,2})[.)]\s+")
# A run of blanks is looked at once, from its start.
_DASHED: Final = re.compile(r"(?<!\s)\s++[-*•]\s++")
_SPACES: Final = re.compile(r"(?<=\S)[ \t\u00a0]{2,}(?=\S)")
_BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n){2,}")


def tidy_description(description: str) -> Tidied | None:
    """The same words with lists as lists and stray blanks gone; None when nothing is gained."""
    if _VERBATIM.search(description):
        return None
    text = description.replace("\r\n", "\n").strip()
    reasons = []
    listed = _introduced_list(_numbered_list(_dashed_list(text)))
    if listed != text:
        reasons.append("turns the items that run on in one line into a list")
    blanks = len(_SPACES.findall(listed)) + len(_BLANK_LINES.findall(listed))
    if blanks >= 2:
        listed = _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", listed))
        reasons.append("removes stray blanks")
    if not reasons or len(listed) > MAX_DESCRIPTION:
        return None
    return Tidied(listed, " and ".join(reasons) + "; the words stay")


def _introduced_list(text: str) -> str:
    return _INTRODUCED.sub(lambda m: _bullets(m[1], m[2].split(";")) or m[0], text)


def _bullets(head: str, parts: list[str]) -> str | None:
    items = [part.strip() for part in parts if part.strip()]
    if len(items) < _MIN_ITEMS:
        return None
    return "\n".join([head, *(f"- {item}" for item in items)])


def _dashed_list(text: str) -> str:
    """`pack: - soap - towel - brush` on one line; a lone dash is punctuation."""
    return "\n".join(_undashed(line) for line in text.split("\n"))


def _undashed(line: str) -> str:
    head, *items = _DASHED.split(line)
    if head.endswith(":"):
        return _bullets(head, items) or line
    if head.startswith(("- ", "* ", "• ")) and len(items) + 1 >= _MIN_ITEMS:
        return "\n".join(f"- {item.strip()}" for item in [head[2:], *items])
    return line


def _numbered_list(text: str) -> str:
    lines = []
    for line in text.split("\n"):
        numbers = [int(m[1]) for m in _NUMBERED.finditer(line)]
        counts_up = numbers == list(range(1, len(numbers) + 1))
        if len(numbers) >= _MIN_ITEMS and counts_up:
            line = _NUMBERED.sub(lambda m: f"\n{m[1]}. ", line)
            line = "\n".join(part.rstrip() for part in line.strip().split("\n"))
        lines.append(line)
    return "\n".join(lines)
