"""No text is slow to match: every regular expression takes time linear in the text's length.

The patterns are collected from the modules, so a new one is tested without being named here. Only patterns at the top
level of a module are found; another test refuses patterns elsewhere.
"""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from services.platform.rpc.nfc import nfc
from tests.unit.hostile_texts import hostile_texts
from workflows.email.message import compose
from workflows.email.rendering import Item, render
from workflows.enrichment.enrichers import EnrichRequest, cues, heuristic, tidy
from workflows.enrichment.enrichers.answer import InvalidAnswer, read_answer
from workflows.enrichment.enrichers.prompt import build_prompt
from workflows.sanitise import clean_line, clean_text, cut, cut_bytes

PACKAGES = ("workflows", "taskflow_client")
# Functions that compile a pattern when first called. This module's `patterns` adds these patterns by hand.
BUILDERS = {"workflows.enrichment.enrichers.heuristic": {"_any_cue"}}

# Text length (characters), and the most that the time may grow for two and four times the length. With a quadratic
# pattern it grows by 4 and 16.
LENGTH = 1_000
MOST_FOR_TWICE = 3.0
MOST_FOR_FOUR_TIMES = 8.0
# Growth isn't judged below this processor time (seconds). A quadratic pattern exceeds it at four times LENGTH.
FLOOR = 0.001
# A match is aborted after this time (seconds).
ENDLESS = 0.5

# The longest description, and the longest model answer (characters).
LONGEST = 20_000
LONGEST_ANSWER = 200_000
# Processor time (seconds) for one whole text. The child process's budget is ten times as much.
MOST_SECONDS = 0.1


class Endless(Exception):
    """Raised by the timer during a match."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in map(importlib.import_module, PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Skip `__main__`, because importing it would run the program.
            if not found.name.endswith("__main__"):
                yield found.name, Path(str(importlib.import_module(found.name).__file__))


@cache
def patterns() -> dict[str, re.Pattern[str]]:
    found = {
        f"{name}.{attribute}": value
        for name, _ in modules()
        for attribute, value in vars(importlib.import_module(name)).items()
        if isinstance(value, re.Pattern)
    }
    # `_any_cue` combines the cues, and `_cues` matches them only where a word begins.
    for number, cue in enumerate(cues.CUES):
        found[f"cue {number}"] = re.compile(rf"(?<![\w-])(?:{cue.pattern})(?![\w-])")
    return found


def seconds(pattern: re.Pattern[str], text: str) -> float:
    """Processor time of matching the text from each start, and as a whole."""
    signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS)
    try:
        started = time.thread_time()
        deque(pattern.finditer(text), 0)
        pattern.fullmatch(text)
        return time.thread_time() - started
    except Endless:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def slow_texts(pattern: re.Pattern[str]) -> Iterator[str]:
    """Texts on which the pattern's time grows faster than their length."""
    lengths = (LENGTH, 2 * LENGTH, 4 * LENGTH)
    for texts in zip(*(hostile_texts(pattern, length) for length in lengths), strict=True):
        first = seconds(pattern, texts[-1])
        if first == float("inf") or (first > FLOOR and grows(pattern, texts)):
            yield texts[-1]


def grows(pattern: re.Pattern[str], texts: tuple[str, ...]) -> bool:
    """Whether the time grows too fast with the text. The best of several tries counts, as the machine may be busy."""
    best = [float("inf")] * len(texts)
    for _ in range(6):
        times = [seconds(pattern, text) for text in texts]
        best = [min(pair) for pair in zip(best, times, strict=True)]
        small, middle, large = best
        if large <= max(FLOOR, MOST_FOR_TWICE * middle, MOST_FOR_FOUR_TIMES * small):
            return False
    return True


@pytest.fixture(autouse=True)
def _timer() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Endless

    before = signal.signal(signal.SIGVTALRM, stop)
    yield
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("name", patterns())
def test_every_pattern_takes_time_linear_in_the_text(name: str) -> None:
    assert [text[:80] for text in slow_texts(patterns()[name])] == []


@pytest.mark.parametrize(
    "pattern",
    [
        # Patterns that the product once had.
        r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$",
        r"\s+[-*•]\s+",
        r"^([^\n:;.]{1,60}:)\s+([^\n]*;[^\n]*)$",
        r"```|https?://\S*;",
        r"(?:\bnot|n't)\b[^.!?:]*$",
        r"[^@\s]+@[^@\s]+",
        # Textbook examples of slow patterns.
        r"(a+)+b",
        r"(?:a|ab|b)*c",
        r"(\w|\d)+$",
        r"<(.|\n)*>",
        r"x*x*y",
        r"[ \t]+$",
    ],
)
def test_a_pattern_with_faster_growth_is_detected(pattern: str) -> None:
    assert next(slow_texts(re.compile(pattern, re.S | re.M)), None) is not None


def test_every_pattern_is_defined_where_this_test_collects_it() -> None:
    hidden = []
    for name, path in modules():
        tree = ast.parse(path.read_text())
        tops = {
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call)
        }
        allowed = {
            call
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name in BUILDERS.get(name, ())
            for call in ast.walk(node)
        }
        hidden += [
            f"{name}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if _uses_re(node) and node not in tops and node not in allowed
        ]
    assert hidden == [], "give the pattern a name at the top of its module"


def _uses_re(node: ast.AST) -> bool:
    """Whether the node compiles a pattern, or refers to a function of `re` that does."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "re"
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr != "escape"
    )


# Whole functions, not single patterns

SHAPES: list[Callable[[int], str]] = [
    lambda n: "a" + " " * (n - 2) + "b",
    lambda n: "a:" + "\n" * (n - 3) + "b",
    lambda n: " \n" * (n // 2) + "x",
    lambda n: "x:" + " - " * (n // 3),
    lambda n: "x: " + ";" * (n - 3),
    lambda n: "1. " * (n // 3),
    lambda n: "```\n" * (n // 4),
    lambda n: "http://" * (n // 7),
    lambda n: '"a' * (n // 2),
    lambda n: "not so very " * (n // 12),
    lambda n: "a" * n,
    lambda n: "now " * (n // 4),
    lambda n: "!" * n,
    lambda n: "\u0130" * n,
    lambda n: "a" + "\u0301\u0323" * (n // 2),
    lambda n: "\u0f73" * n,
    lambda n: "e\u0301" * (n // 2),
    lambda n: "\u202e\r" * (n // 2),
    lambda n: "👩\u200d" * (n // 2),
]


def hostile() -> Iterator[str]:
    yield from (shape(LONGEST) for shape in SHAPES)
    for pattern in vars(tidy).values():
        if isinstance(pattern, re.Pattern):
            yield from islice(hostile_texts(pattern, LONGEST), 0, None, 5)


def mailed(text: str) -> None:
    item = Item(text[:500], "P-1", text[:255], "P", text[:100], datetime.now(UTC))
    rendered = render([item] * 20, recipient_name=text[:100])
    compose("b", rendered, sender="a@b.example", recipient="c@d.example").as_bytes()


@pytest.mark.parametrize(
    "read",
    [
        lambda text: heuristic.suggest(EnrichRequest(text[:255], text)),
        lambda text: build_prompt(EnrichRequest(text[:255], text, text, (text,) * 5)),
        clean_text,
        clean_line,
        nfc,
        lambda text: cut(text, 500),
        lambda text: cut_bytes(text, 500),
        mailed,
    ],
    ids=["suggest", "build_prompt", "clean_text", "clean_line", "nfc", "cut", "cut_bytes", "mail"],
)
def test_the_longest_description_is_read_within_the_time_limit(
    read: Callable[[str], object],
) -> None:
    for text in hostile():
        assert least_seconds(lambda text=text: read(text)) < MOST_SECONDS, text[:80]  # type: ignore[misc]


def answers() -> Iterator[str]:
    n = LONGEST_ANSWER // 2
    fit = {"value": "LOW", "reason": "calm", "confidence": 0.5}
    for shape in SHAPES:
        yield shape(n)
        yield f"```json\n{shape(n)}\n```"
        for key in ("value", "reason"):
            yield json.dumps({"priority": fit, "description": {**fit, key: shape(n)}})
        yield json.dumps({"priority": {**fit, shape(n): 1}, "description": None})
    yield json.dumps({"priority": {f"{i:x}": 1 for i in range(15_000)}, "description": None})
    yield "[" * n
    yield '{"a":' * (n // 5)
    yield "9" * n
    yield '{"priority": [' + "[]," * (n // 3) + '[]], "description": null}'


def test_the_longest_model_answer_is_read_within_the_time_limit() -> None:
    for answer in answers():

        def read(answer: str = answer) -> None:
            with suppress(InvalidAnswer):
                read_answer(answer, frozenset({"priority", "description"}), "as it is", "m")

        assert least_seconds(read) < 2 * MOST_SECONDS, answer[:80]


def least_seconds(work: Callable[[], object]) -> float:
    """Processor time: the best of a few tries."""
    best = float("inf")
    for _ in range(3):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
        if best < MOST_SECONDS / 2:
            break
    return best
