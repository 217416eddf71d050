"""Suggestions for a task's priority and description; for activities, never for definitions."""

from workflows.enrichers.build import build_enricher
from workflows.enrichers.types import (
    Enricher,
    EnrichRequest,
    InvalidModelOutput,
    Kind,
    ModelRefused,
    Proposal,
    RetryableModelError,
)

__all__ = [
    "EnrichRequest",
    "Enricher",
    "InvalidModelOutput",
    "Kind",
    "ModelRefused",
    "Proposal",
    "RetryableModelError",
    "build_enricher",
]
