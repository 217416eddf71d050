"""Requests to enrichers, their proposals and their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

Kind = Literal["priority", "description"]
PriorityName = Literal["LOW", "MEDIUM", "HIGH", "URGENT"]

# The API's limits (characters) for the reason of a suggestion and the description of a task.
MAX_REASON: Final = 500
MAX_DESCRIPTION: Final = 20_000


@dataclass(frozen=True, slots=True)
class EnrichRequest:
    """The text of one task, and the kinds of proposal that are wanted.

    `deadline` is text ("2026-12-01 in Europe/Berlin"). `similar` holds titles of tasks that the requesting user may
    see; an enricher must not look up others. Workspaces with waiting texts take turns.
    """

    title: str
    description: str = ""
    deadline: str | None = None
    similar: tuple[str, ...] = ()
    kinds: frozenset[Kind] = frozenset({"priority", "description"})
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """`value` is a priority name, or the whole new description. `confidence` is between 0 and 1."""

    kind: Kind
    value: str
    reason: str
    confidence: float
    model: str
    prompt_version: str


class Enricher(Protocol):
    """Makes proposals for a task's text. It changes nothing itself."""

    async def suggest(self, request: EnrichRequest) -> list[Proposal]:
        """Returns at most one proposal of each wanted kind, and none when the enricher finds nothing to improve.

        Raises `RetryableModelError`, `InvalidModelOutput`, `ModelRefused` or `UnreadableText`.
        """
        ...

    async def close(self) -> None:
        """Closes connections and child processes."""
        ...


class RetryableModelError(Exception):
    """Raised when another try may succeed, `retry_after` seconds later if the endpoint named a time."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidModelOutput(Exception):
    """Raised when the model's answer is invalid, and after a correction still is."""


class ModelRefused(Exception):
    """Raised when the endpoint or the model refuses, so that another try is useless."""
