"""The offline enricher on sentences as users write them.

`priority_cases.tsv` was written before the rules it judges. Its sets: `development` and
`held-out` are two halves split by a hash of the title, and rules were tuned on the first only.
The `later` sets, adversarial ones first, were each written after the rules of that time and scored
once before they were used to improve the rules. In that first run 24, 37, 47 and 48 of 60 were
right, which is the better estimate for sentences that nobody planned for.
"""

from __future__ import annotations

import csv
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from workflows.enrichment.enrichers import EnrichRequest
from workflows.enrichment.enrichers.heuristic import suggest, suggest_priority
from workflows.enrichment.enrichers.tidy import tidy_description

ALL_RIGHT = 0.85
EACH_RIGHT = 0.75


def cases() -> list[dict[str, str]]:
    with (Path(__file__).parent / "priority_cases.tsv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


CASES = cases()
SETS = sorted({case["set"] for case in CASES})


def test_the_first_set_is_large_and_balanced() -> None:
    for half in ("development", "held-out"):
        counts = Counter(case["expected"] for case in CASES if case["set"] == half)
        assert set(counts) == {"HIGH", "MEDIUM", "LOW"}
        assert len(set(counts.values())) == 1
        assert counts.total() >= 120


@pytest.mark.parametrize("name", SETS)
def test_most_priorities_are_right_in_every_set_and_class(name: str) -> None:
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for case in CASES:
        if case["set"] == name:
            total[case["expected"]] += 1
            proposal = suggest_priority(case["title"], case["description"])
            right[case["expected"]] += proposal.value == case["expected"]
    assert right.total() / total.total() >= ALL_RIGHT
    for expected, count in total.items():
        assert right[expected] / count >= EACH_RIGHT, expected


def test_every_reason_quotes_the_words_that_led_to_it() -> None:
    for case in CASES:
        proposal = suggest_priority(case["title"], case["description"])
        quoted = re.search(r'(?:says|only|others) "(.*)"', proposal.reason, re.S)
        if quoted is None:
            assert proposal.value == "MEDIUM"
            assert proposal.reason == "no cue either way"
        else:
            assert quoted[1] in f"{case['title']}\n{case['description']}"
            assert 0 < proposal.confidence <= 1


@pytest.mark.parametrize(
    ("text", "value", "quoted"),
    [
        ("Send the offer as soon as possible", "HIGH", "as soon as possible"),
        ("Swap the carpet, not urgent", "LOW", "not urgent"),
        ("This isn\u2019t critical: swap the carpet", "LOW", "isn\u2019t critical"),
        ("Rename the 'urgent' label", "MEDIUM", None),
        ("The rollout was urgent last week, now done; file the papers", "MEDIUM", "urgent"),
        ("If you find time, water the plants", "LOW", "If you find time"),
        ("Draft the plan by end of next quarter", "MEDIUM", "by end of next quarter"),
        ("Paint the door", "MEDIUM", None),
    ],
)
def test_negation_mentions_tense_and_far_deadlines_are_read(
    text: str, value: str, quoted: str | None
) -> None:
    proposal = suggest_priority(text, "")
    assert proposal.value == value
    assert quoted is None or f'"{quoted}' in proposal.reason


def test_a_suggestion_takes_well_under_a_millisecond() -> None:
    started = time.process_time()
    for case in CASES:
        suggest_priority(case["title"], case["description"])
    # Half a millisecond each; the measured time is about an eighth of it.
    assert (time.process_time() - started) / len(CASES) < 0.000_5


def test_a_suggestion_for_the_longest_description_is_fast_too() -> None:
    # A team's usual words, so that every rule runs.
    words = " ".join(case["title"] for case in CASES if case["expected"] == "MEDIUM")
    text = (words * 20)[:20_000]
    suggest_priority("Task", text)
    started = time.process_time()
    for _ in range(50):
        suggest_priority("Task", text)
    assert (time.process_time() - started) / 50 < 0.002


def test_a_deadline_at_the_end_of_a_long_description_is_seen() -> None:
    proposal = suggest_priority(
        "Plan", "They want the kitchen moved. " * 500 + "Needed by tonight!"
    )
    assert proposal.value == "HIGH"
    assert "by tonight" in proposal.reason


@pytest.mark.parametrize(
    "text",
    [
        "not " * 5_000,
        "is still " * 2_500,
        '"' * 20_000,
        "'a " * 6_000,
        "a" * 20_000,
        "if the " * 3_000 + "outage",
        "\u0130" * 20_000,
        "before the " * 2_000,
        " \n" * 10_000,
        "a: " + "; " * 9_000,
        "1. " * 6_000,
        "x:" + " - " * 6_000,
    ],
    ids=range(12),
)
def test_no_text_makes_the_heuristic_slow(text: str) -> None:
    started = time.process_time()
    suggest_priority(text[:255], text)
    tidy_description(text)
    assert time.process_time() - started < 0.1


def test_only_the_wanted_kinds_are_proposed() -> None:
    text = "todo: call the bank; order the parts; write to Kim"
    both = suggest(EnrichRequest("Move", text))
    assert [proposal.kind for proposal in both] == ["priority", "description"]
    request = EnrichRequest("Move", text, kinds=frozenset({"description"}))
    assert [proposal.kind for proposal in suggest(request)] == ["description"]
    assert suggest(EnrichRequest("Move", text, kinds=frozenset())) == []
    for proposal in both:
        assert proposal.model == "heuristic"
        assert proposal.prompt_version


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("todo: a; b; c", "todo:\n- a\n- b\n- c"),
        (
            "For the move.\nbring: boxes; tape ; pens;markers",
            "For the move.\nbring:\n- boxes\n- tape\n- pens\n- markers",
        ),
        (
            "Do this: 1) unplug it 2) wait 3) plug it in",
            "Do this:\n1. unplug it\n2. wait\n3. plug it in",
        ),
        ("pack: - soap - a towel - the brush", "pack:\n- soap\n- a towel\n- the brush"),
        ("- soap - a towel - the brush", "- soap\n- a towel\n- the brush"),
        ("First   part.\n\n\n\nSecond    part.", "First part.\n\nSecond part."),
    ],
)
def test_a_description_gains_list_markers_and_loses_stray_blanks(before: str, after: str) -> None:
    tidied = tidy_description(before)
    assert tidied is not None
    assert tidied.text == after
    words = re.compile(r"[^\W\d]+")
    assert words.findall(tidied.text) == words.findall(before)
    assert tidy_description(tidied.text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Call Kim.",
        "Two things: tea; coffee",
        "We met - as planned - and it went well - mostly.",
        "Version 1. is out, 2. is late",
        "One stray  blank is no reason.",
        "```\na  b   c\n\n\n\nd\n```",
        "| a  | b   |\n| 1  | 2   |",
        "code: for (i = 0; i < n; i++) { run(); }",
        "Said Ann: I came; I saw; I",
        "    indented   code   stays\n\n\n\nhere",
    ],
)
def test_a_description_that_would_not_improve_is_left_alone(text: str) -> None:
    if text.startswith("Said"):
        # A sentence with semicolons may become a list; the words stay the same.
        tidied = tidy_description(text)
        assert tidied is None or tidied.text.split("\n- ")[1:] == ["I came", "I saw", "I"]
    else:
        assert tidy_description(text) is None
