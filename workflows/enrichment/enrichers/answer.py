"""Turns a model's answer into proposals: parsed, validated and sanitised. Instructions in an answer have no effect."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import ValidationError

from workflows.enrichment.enrichers.prompt import PROMPT_VERSION, DescriptionAnswer, PriorityAnswer
from workflows.enrichment.enrichers.types import MAX_DESCRIPTION, MAX_REASON, Kind, Proposal
from workflows.sanitise import clean_line, clean_text, cut

# Longest answer (characters) that is parsed, far above any valid one. It bounds the work on an invalid answer.
_MAX_ANSWER: Final = 200_000
_FENCE: Final = "```"


class InvalidAnswer(Exception):
    """Raised for an invalid answer. The text gives the reason to the model, and never quotes the answer."""


def read_answer(text: str, kinds: frozenset[Kind], original: str, model: str) -> list[Proposal]:
    """Proposals of the wanted kinds. `original` is the task's description. Raises `InvalidAnswer`."""
    answer = _parsed(text)
    if not isinstance(answer, dict) or set(answer) != set(kinds):
        raise InvalidAnswer(f"the answer must be an object with exactly the keys {sorted(kinds)}")
    try:
        proposals = [_proposal(kind, answer[kind], original, model) for kind in sorted(kinds)]
    except ValidationError as error:
        raise InvalidAnswer(_explanation(error)) from None
    return [proposal for proposal in proposals if proposal is not None]


def _parsed(text: str) -> Any:
    if len(text) > _MAX_ANSWER:
        raise InvalidAnswer("the answer is far too long")
    try:
        return json.loads(_unfenced(text))
    except (ValueError, RecursionError):
        raise InvalidAnswer("the answer is not one JSON object") from None


def _unfenced(text: str) -> str:
    """The text without a Markdown code fence around it."""
    opening, _, rest = text.strip().partition("\n")
    if opening.rstrip() in (_FENCE, f"{_FENCE}json") and rest.endswith(_FENCE):
        return rest.removesuffix(_FENCE).strip()
    return text


def _proposal(kind: Kind, raw: Any, original: str, model: str) -> Proposal | None:
    if kind == "priority":
        priority = PriorityAnswer.model_validate(_cleaned(raw))
        value, reason, confidence = priority.value, priority.reason, priority.confidence
        return Proposal(kind, value, _reason(reason), confidence, model, PROMPT_VERSION)
    if raw is None:
        return None
    description = DescriptionAnswer.model_validate(_cleaned(raw))
    text = description.value.strip()
    if not text or len(text) > MAX_DESCRIPTION:
        raise InvalidAnswer(f"the description must have 1 to {MAX_DESCRIPTION} characters")
    if text == clean_text(original).strip():
        return None
    reason = _reason(description.reason)
    return Proposal(kind, text, reason, description.confidence, model, PROMPT_VERSION)


def _cleaned(raw: Any) -> Any:
    # Cleaning comes before validation, which would reject a string with a lone surrogate.
    if not isinstance(raw, dict):
        return raw
    return {
        clean_line(key): clean_text(value) if isinstance(value, str) else value
        for key, value in raw.items()
    }


def _reason(text: str) -> str:
    reason = clean_line(text)
    if not reason:
        raise InvalidAnswer("every proposal needs a reason")
    return cut(reason, MAX_REASON)


def _explanation(error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{_field(problem['loc'])}: {problem['msg']}" for problem in problems[:3])


def _field(path: tuple[int | str, ...]) -> str:
    """The field's name if we know it. An unknown key could quote a task's text."""
    known = [step for step in path[:1] if step in PriorityAnswer.model_fields]
    return str(known[0]) if known else "the proposal"
