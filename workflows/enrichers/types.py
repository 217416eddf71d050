"""What an enricher is asked and what it answers; no network, no services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

Kind = Literal["priority", "description"]
PriorityName = Literal["LOW", "MEDIUM", "HIGH", "URGENT"]

# Characters. The same limits that the API puts on stored suggestions and tasks.
MAX_REASON: Final = 500
MAX_DESCRIPTION: Final = 20_000


@dataclass(frozen=True, slots=True)
class EnrichRequest:
    """The text of one task, and which kinds of proposal are wanted.

    `deadline` is for people ("2026-12-01 in Europe/Berlin"). `similar` holds titles of tasks that
    the requesting user may see; an enricher must not look for others by itself. Workspaces whose
    texts wait to be read take turns.
    """

    title: str
    description: str = ""
    deadline: str | None = None
    similar: tuple[str, ...] = ()
    kinds: frozenset[Kind] = frozenset({"priority", "description"})
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One suggestion: `value` is a priority name, or the whole new description.

    `reason` has at most 500 characters, `value` at most 20,000; `confidence` lies within 0..1.
    """

    kind: Kind
    value: str
    reason: str
    confidence: float
    model: str
    prompt_version: str


class Enricher(Protocol):
    """Reads a task's text and proposes; it never changes anything."""

    async def suggest(self, request: EnrichRequest) -> list[Proposal]:
        """At most one proposal of each wanted kind, none when there is nothing to improve.

        Raises `RetryableModelError`, `InvalidModelOutput`, `ModelRefused` or `UnreadableText`.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and processes."""
        ...


class RetryableModelError(Exception):
    """Worth another try later; `retry_after` is in seconds when the endpoint named a time."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidModelOutput(Exception):
    """The model answered twice, the second time after a correction, and neither answer fits."""


class ModelRefused(Exception):
    """The endpoint or the model won't do it, and asking again would not change that."""
