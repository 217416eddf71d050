"""Proposes a description that is easier to read, with the same words."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from workflows.enrichment.enrichers.types import MAX_DESCRIPTION


class Tidied(NamedTuple):
    text: str
    reason: str


# An enumeration with fewer items stays on one line.
_MIN_ITEMS = 3

# Code, tables and other texts in which spaces or separators have a meaning stay as they are.
_VERBATIM: Final = re.compile(
    r"```|~~~|^(?: {4}|\t)\S|^[ \t]*\||^>|\{|\}|</|&&|\$ |;[ \t]*$|(?<!\S)(?>\S*?https?://)\S*;",
    re.M,
)
_INTRODUCED: Final = re.compile(r"^([^\n:;.]{1,60}:)\s++([^\n;]*+;[^\n]*+)$", re.M)
_NUMBERED: Final = re.compile(r"(?<!\S)(\d{1,2})[.)]\s+")
# The lookbehind and the possessive quantifiers read a run of blanks only once.
_DASHED: Final = re.compile(r"(?<!\s)\s++[-*•]\s++")
_SPACES: Final = re.compile(r"(?<=\S)[ \t\u00a0]{2,}(?=\S)")
_BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n){2,}")


def tidy_description(description: str) -> Tidied | None:
    """Turns enumerations into lists and removes stray blanks. None when there is nothing to improve."""
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
    """Splits `pack: - soap - towel - brush` on one line into list items. A single dash counts as punctuation."""
    return "\n".join(_dashed_line(line) for line in text.split("\n"))


def _dashed_line(line: str) -> str:
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
