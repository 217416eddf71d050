"""The offline enricher: rules about wording. It needs no network and takes well under a millisecond."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from workflows.enrichment.enrichers import cues
from workflows.enrichment.enrichers.tidy import tidy_description
from workflows.enrichment.enrichers.types import EnrichRequest, PriorityName, Proposal

if TYPE_CHECKING:
    # For type checks only: importing it at run time would enlarge the child process that applies the rules.
    from workflows.enrichment.text_process import TextProcess

MODEL: Final = "heuristic"
RULES_VERSION: Final = "rules-1"

# Characters of a long description that are read, at its start and at its end, where people say what is urgent and by
# when. The limit bounds the time for the longest description that the API accepts.
_READ_FIRST = 700
_READ_LAST = 300
# How many characters before a cue the rules search for negation, tense and conditions.
_CONTEXT = 60

_BY_GROUP: Final = {f"c{i}": cue for i, cue in enumerate(cues.CUES)} | {
    "shout": cues.Cue("harm", 1, ""),
    "smile": cues.Cue("low", 2, ""),
}
_SIGNS: Final = re.compile(r"(?P<shout>!!+)|(?P<smile>[:;]-?\))")
_WORD: Final = re.compile(r"(?<![\w-])\w")
_NOW: Final = re.compile(r"\bNOW\b|\bnow[ !.]*$|\bQuick(?:ly)?[!,]")
_NOT_NOW: Final = re.compile(
    rf"(?:\bno need|\bnot|n't|\bnever|\buntil|\bby|\bfrom)\b[^.!?:]{{0,{_CONTEXT}}}$"
)
_MENTION_AFTER: Final = re.compile(cues.MENTIONED_AFTER)
_INCIDENT_NAMED: Final = re.compile(cues.INCIDENT_NAMED_AFTER)
_MENTION_BEFORE: Final = re.compile(cues.MENTIONED_BEFORE)
_NEGATED: Final = re.compile(cues.NEGATED_BEFORE)
_TAKEN_BACK: Final = re.compile(cues.NEGATED_AFTER)
_WITHDRAWN: Final = re.compile(cues.LOW_WITHDRAWN)
_COMPOUND: Final = re.compile(cues.COMPOUND_EMERGENCY)
_PAST_BEFORE: Final = re.compile(cues.PAST_BEFORE)
_PAST_AFTER: Final = re.compile(cues.PAST_AFTER)
_CONDITION: Final = re.compile(cues.CONDITION_BEFORE)
_ABOUT: Final = re.compile(cues.ABOUT)
_FAR: Final = re.compile(cues.FAR)
# A few words in quotation marks are a name; a longer quotation is speech.
_QUOTED: Final = re.compile(
    r"(?<!\w)(?:\"[^\s\"][^\"\n]{0,39}\"|'[^\s'][^'\n]{0,39}'|`[^\s`][^`\n]{0,39}`)(?!\w)"
)
_FOLD: Final = str.maketrans("’‘‛´“”„«»", '\'\'\'\'"""""')


class _Reading(NamedTuple):
    """A cue in its context. A weight above 0 speaks for HIGH, below 0 for LOW, and 0 for neither."""

    weight: int
    quote: str


class HeuristicEnricher:
    """Implements `Enricher` by rules that a child process applies."""

    def __init__(self, texts: TextProcess) -> None:
        self._texts = texts

    async def suggest(self, request: EnrichRequest) -> list[Proposal]:
        return await self._texts.call(request.workspace, suggest, request)

    async def close(self) -> None:
        await self._texts.close()


def suggest(request: EnrichRequest) -> list[Proposal]:
    """The rules' proposals. A proposal's reason quotes the words that led to it."""
    proposals = []
    if "priority" in request.kinds:
        proposals.append(suggest_priority(request.title, request.description))
    if "description" in request.kinds:
        tidied = tidy_description(request.description)
        if tidied is not None:
            proposals.append(
                Proposal("description", tidied.text, tidied.reason, 0.6, MODEL, RULES_VERSION)
            )
    return proposals


def suggest_priority(title: str, description: str) -> Proposal:
    """HIGH for urgent wording, LOW for casual or optional wording, otherwise MEDIUM."""
    about = _ABOUT.search(_folded(title)) is not None
    readings = [*_read(title, about), *_read_long(description, about)]
    score = sum(reading.weight for reading in readings)
    if score >= 2:
        return _priority("HIGH", score, _strongest(readings, 1))
    if score <= -1:
        return _priority("LOW", -score, _strongest(readings, -1))
    return _undecided(readings)


def _priority(name: PriorityName, strength: int, reading: _Reading) -> Proposal:
    confidence = min(0.95, 0.5 + 0.1 * strength)
    return Proposal("priority", name, f'says "{reading.quote}"', confidence, MODEL, RULES_VERSION)


def _undecided(readings: list[_Reading]) -> Proposal:
    reason = "no cue either way"
    if readings:
        weighty = max(readings, key=lambda reading: abs(reading.weight))
        how = "only" if weighty.weight == 0 or len(readings) == 1 else "among others"
        reason = f'no clear cue either way, {how} "{weighty.quote}"'
    return Proposal("priority", "MEDIUM", reason, 0.5, MODEL, RULES_VERSION)


def _strongest(readings: list[_Reading], sign: int) -> _Reading:
    return max(readings, key=lambda reading: reading.weight * sign)


def _read_long(text: str, about: bool) -> Iterator[_Reading]:
    if len(text) <= _READ_FIRST + _READ_LAST:
        yield from _read(text, about)
    else:
        yield from _read(text[:_READ_FIRST], about)
        yield from _read(text[-_READ_LAST:], about)


def _read(text: str, about: bool) -> Iterator[_Reading]:
    folded = _folded(text)
    for match in _cues(_without_names(folded)):
        cue = _BY_GROUP[match.lastgroup or ""]
        yield _interpret(cue, text, folded, match.start(), match.end(), about)
    for match in _NOW.finditer(text):
        if _NOT_NOW.search(folded, max(0, match.start() - _CONTEXT), match.start()):
            continue
        yield _Reading(2, match.group().strip(" .,"))
    for match in _FAR.finditer(folded):
        yield _Reading(0, text[match.start() : match.end()])


def _cues(folded: str) -> Iterator[re.Match[str]]:
    """Cues from left to right, without overlaps. Where several match, the first in the list counts."""
    end = 0
    for word in _WORD.finditer(folded):
        if word.start() < end:
            continue
        match = _any_cue().match(folded, word.start())
        if match:
            end = match.end()
            yield match
    yield from _SIGNS.finditer(folded)


@cache
def _any_cue() -> re.Pattern[str]:
    """The pattern of all cues. The child process compiles it for its first text, which takes about 0.03 s."""
    patterns = "|".join(f"(?:{cue.pattern})(?P<c{i}>)" for i, cue in enumerate(cues.CUES))
    return re.compile(f"(?:{patterns})(?![\\w-])")


def _interpret(
    cue: cues.Cue, text: str, folded: str, start: int, end: int, about: bool
) -> _Reading:
    quote = text[start:end]
    before = folded[max(0, start - _CONTEXT) : start]
    if cue.sort in ("urgency", "low") and _is_mention(folded, before, start, end):
        return _Reading(0, quote)
    negation = _NEGATED.search(before)
    if cue.sort == "low":
        return _Reading(0 if negation or _WITHDRAWN.search(before) else -cue.weight, quote)
    taken_back = _TAKEN_BACK.match(folded, end)
    if taken_back and cue.weight:
        return _Reading(-2, text[start : taken_back.end()])
    if negation:
        opening = start - len(before) + negation.start()
        while opening > 0 and text[opening - 1].isalnum():
            opening -= 1  # the match of "isn't" starts at its "n't"
        negated = text[opening:end].strip()
        return _Reading(-2 if cue.sort == "urgency" else 0, negated)
    if cue.sort in ("urgency", "incident") and _is_elsewhere(cue, folded, before, end, about):
        return _Reading(0, quote)
    return _Reading(cue.weight, quote)


def _is_mention(folded: str, before: str, start: int, end: int) -> bool:
    return (
        _MENTION_AFTER.match(folded, end) is not None
        or _MENTION_BEFORE.search(before) is not None
        or (folded.startswith("emergency", start) and _COMPOUND.match(folded, end) is not None)
    )


def _is_elsewhere(cue: cues.Cue, folded: str, before: str, end: int, about: bool) -> bool:
    """Whether the cue is past, hypothetical, or only the subject of the text."""
    return (
        (cue.sort == "incident" and (about or _INCIDENT_NAMED.match(folded, end) is not None))
        or _PAST_BEFORE.search(before) is not None
        or _PAST_AFTER.match(folded, end) is not None
        or _CONDITION.search(before) is not None
    )


def _without_names(folded: str) -> str:
    return _QUOTED.sub(
        lambda quoted: (
            "_" * len(quoted.group()) if quoted.group().count(" ") <= 3 else quoted.group()
        ),
        folded,
    )


def _folded(text: str) -> str:
    """Lower case with plain quotation marks. Every character keeps its position."""
    lowered = text.translate(_FOLD).lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(
        char.lower() if len(char.lower()) == 1 else char for char in text.translate(_FOLD)
    )
