"""The model-backed enricher with a fake model server that a test controls."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, TypeVarTuple

from tests.fakes.model_server import ModelServer, model_server
from workflows.enrichment.enrichers import Kind
from workflows.enrichment.enrichers.circuit import Circuit
from workflows.enrichment.enrichers.model import ModelEnricher, ModelSettings
from workflows.enrichment.text_process import TextProcess

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

KEY = "sk-planted-secret"


PRIORITY: frozenset[Kind] = frozenset({"priority"})


class InThisProcess(TextProcess):
    """Reads texts in this process, because starting a child process takes longer than most tests."""

    async def call(
        self, workspace: str, function: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        return function(*arguments)


@asynccontextmanager
async def enriching(
    timeout: float = 10.0, texts: TextProcess | None = None, **settings: Any
) -> AsyncIterator[tuple[ModelEnricher, ModelServer]]:
    async with model_server() as server:
        enricher = ModelEnricher(
            ModelSettings(
                server.base_url, "m-1", KEY, timeout=timeout, allow_private=True, **settings
            ),
            texts or InThisProcess(1.0),
            # The circuit breaker has its own tests; here it must not hide the endpoint's answers.
            Circuit(failures_to_open=1_000),
        )
        try:
            yield enricher, server
        finally:
            await enricher.close()


def with_reason(**fields: Any) -> str:
    return json.dumps({"priority": {"value": "LOW", "reason": "r", "confidence": 0.5, **fields}})
