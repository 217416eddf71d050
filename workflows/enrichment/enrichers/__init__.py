"""Suggestions for a task's priority and description, by offline rules or by a model."""

from workflows.enrichment.enrichers.types import (
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
]
