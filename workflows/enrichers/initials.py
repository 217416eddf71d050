"""With which characters a match can begin, so that a text is only compared where it may pay off."""

from __future__ import annotations

from typing import Final

# Stands for any character: \w, \d and classes are not told apart.
ANY: Final = "*"


def initials(pattern: str) -> frozenset[str]:
    """The possible first characters of a match, or `ANY` among them.

    Knows what the cue patterns use: literals, escapes, classes, `(?:` groups, lookaheads and
    quantifiers. Raises ValueError for a pattern that can match nothing at all.
    """
    found, empty, _ = _alternatives(pattern, 0)
    if empty:
        raise ValueError(f"matches the empty string: {pattern}")
    return frozenset(found)


def _alternatives(pattern: str, at: int) -> tuple[set[str], bool, int]:
    """Initials of what stands before the closing bracket, whether it may be empty, and where."""
    found: set[str] = set()
    empty = False
    while True:
        branch, branch_empty, at = _sequence(pattern, at)
        found |= branch
        empty = empty or branch_empty
        if at >= len(pattern) or pattern[at] == ")":
            return found, empty, at
        at += 1


def _sequence(pattern: str, at: int) -> tuple[set[str], bool, int]:
    found: set[str] = set()
    open_ended = True
    while at < len(pattern) and pattern[at] not in "|)":
        item, empty, at = _item(pattern, at)
        if at < len(pattern) and pattern[at] in "?*+{":
            empty = empty or pattern[at] in "?*" or pattern.startswith("{0", at)
            at = pattern.index("}", at) + 1 if pattern[at] == "{" else at + 1
        if open_ended:
            found |= item
            open_ended = empty
    return found, open_ended, at


def _item(pattern: str, at: int) -> tuple[set[str], bool, int]:
    if pattern.startswith("(?:", at):
        found, empty, end = _alternatives(pattern, at + 3)
        return found, empty, end + 1
    if pattern.startswith(("(?=", "(?!"), at):
        _, _, end = _alternatives(pattern, at + 3)
        return set(), True, end + 1
    if pattern[at] == "[":
        return {ANY}, False, pattern.index("]", at + 2) + 1
    if pattern[at] == "\\":
        escaped = pattern[at + 1]
        return {ANY if escaped.isalpha() else escaped}, False, at + 2
    return {pattern[at]}, False, at + 1
