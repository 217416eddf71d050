"""Texts that a careless regular expression matches slowly, generated from its own parse tree.

A backtracking matcher is slow where it can divide a text in many ways. It is also slow where it follows each of many
starts for long before it fails. So the texts pump each repeat of the pattern, alone and after what stands before it.
They contain runs and pairs of each character that the pattern knows, and repeated beginnings of matches.
"""

from __future__ import annotations

import random
import re
import re._constants as op  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from typing import Any, Final

# A character that no pattern of ours accepts, so that a match fails after a long prefix.
_STRANGE: Final = "\x00"
_BY_CATEGORY: Final = {
    op.CATEGORY_DIGIT: "7",
    op.CATEGORY_NOT_DIGIT: "x",
    op.CATEGORY_SPACE: " \n",
    op.CATEGORY_NOT_SPACE: "x-",
    op.CATEGORY_WORD: "a",
    op.CATEGORY_NOT_WORD: " .",
}
_ANY: Final = "x \n."
_REPEATS: Final = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
# Limits on the number of texts of each kind. More texts show nothing new, even for a pattern of a hundred words.
_MOST_UNITS: Final = 16
_MOST_PUMPED: Final = 40
_MOST_EXAMPLES: Final = 6


def hostile_texts(pattern: re.Pattern[str], length: int, seed: int = 0) -> Iterator[str]:
    """Texts of about `length` characters. Another length changes only the number of repetitions."""
    choose = random.Random(seed)
    tree = parser.parse(pattern.pattern, pattern.flags)
    characters = sorted(set(_characters(tree)) | {" ", "a", "\n"})
    units = choose.sample(characters, min(len(characters), _MOST_UNITS))
    units += ["".join(choose.choices(characters, k=choose.randint(2, 3))) for _ in units]
    pumped = list(dict.fromkeys(_pumped(tree, "", choose)))
    pairs = [("", unit) for unit in units]
    pairs += choose.sample(pumped, min(len(pumped), _MOST_PUMPED))
    for _ in range(_MOST_EXAMPLES):
        example = _example(tree, choose)
        pairs += [("", example), ("", example[:-1]), ("", example[: choose.randint(1, 9)])]
        pairs += [(example[: choose.randint(0, len(example))], choose.choice(units))]
    for prefix, unit in dict.fromkeys(pairs):
        if unit:
            body = prefix + unit * (length // len(unit))
            yield body
            yield body + _STRANGE
            yield body + choose.choice(characters)
            yield (prefix + unit) * (length // len(prefix + unit)) + choose.choice(characters)


def _characters(tree: Any) -> Iterator[str]:
    """Every character named in the pattern, and a few of each character class."""
    for kind, value in tree:
        if kind in (op.LITERAL, op.NOT_LITERAL):
            yield chr(value)
        elif kind is op.ANY:
            yield from _ANY
        elif kind is op.IN:
            yield from _members(value)
        else:
            for part in _parts(kind, value):
                yield from _characters(part)


def _members(members: Any) -> str:
    found = ""
    for kind, value in members:
        if kind is op.LITERAL:
            found += chr(value)
        elif kind is op.RANGE:
            found += chr(value[0]) + chr(value[1])
        elif kind is op.CATEGORY:
            found += _BY_CATEGORY[value]
        elif kind is op.NEGATE:
            found += _ANY
    return found


def _matching(members: Any) -> str:
    """Characters that a character class matches, also for a negated class."""
    if members[0][0] is not op.NEGATE:
        return _members(members)
    refused = _members(members[1:])
    return "".join(char for char in "xyz .-\n7" if char not in refused) or "\u2603"


def _parts(kind: Any, value: Any) -> list[Any]:
    """The subpatterns of an element."""
    if kind in _REPEATS:
        return [value[2]]
    if kind is op.BRANCH:
        return list(value[1])
    if kind is op.SUBPATTERN:
        return [value[3]]
    if kind is op.ATOMIC_GROUP:
        return [value]
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return [value[1]]
    return []


def _pumped(tree: Any, before: str, choose: random.Random) -> Iterator[tuple[str, str]]:
    """For each repeat, a text that matches before it, and the text that it repeats."""
    for kind, value in tree:
        if kind in _REPEATS:
            for _ in range(2):
                yield before, _example(value[2], choose)
                yield "", _example(value[2], choose)
        for part in _parts(kind, value):
            yield from _pumped(part, before, choose)
        before += _example([(kind, value)], choose)


def _example(tree: Any, choose: random.Random) -> str:
    """A text that the pattern matches, ignoring lookarounds."""
    text = ""
    for kind, value in tree:
        if kind is op.LITERAL:
            text += chr(value)
        elif kind is op.NOT_LITERAL:
            text += "y" if value == ord("x") else "x"
        elif kind is op.ANY:
            text += "x"
        elif kind is op.IN:
            text += choose.choice(_matching(value))
        elif kind is op.BRANCH:
            text += _example(choose.choice(value[1]), choose)
        elif kind in _REPEATS:
            least, most, body = value
            times = choose.randint(least, min(most, least + 3))
            text += "".join(_example(body, choose) for _ in range(times))
        elif kind in (op.SUBPATTERN, op.ATOMIC_GROUP):
            text += _example(_parts(kind, value)[0], choose)
    return text
