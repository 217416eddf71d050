"""Which enricher a worker uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.enrichers.heuristic import HeuristicEnricher
from workflows.enrichers.types import Enricher

if TYPE_CHECKING:
    from workflows.text_process import TextProcess


def build_enricher(
    texts: TextProcess,
    base_url: str = "",
    model: str = "",
    api_key: str = "",
    *,
    timeout: float = 30.0,
    output_tokens: int = 8_000,
    allow_private: bool = False,
) -> Enricher:
    """The model when both its address and its name are configured, else the offline rules.

    `texts` is where people's texts and the model's answers are read. `timeout` in seconds for one suggestion,
    `output_tokens` for one answer; `allow_private` lets the address be on this machine or network, as for Ollama or
    vLLM. Raises ValueError for half a configuration.
    """
    if not base_url and not model:
        return HeuristicEnricher(texts)
    if not base_url or not model:
        raise ValueError("the model needs both a base URL and a model name, or neither")
    # Loading the client library takes most of a second and 30 MB, which the default doesn't need.
    from workflows.enrichers.model import ModelEnricher, ModelSettings

    return ModelEnricher(
        ModelSettings(
            base_url,
            model,
            api_key,
            timeout=timeout,
            output_tokens=output_tokens,
            allow_private=allow_private,
        ),
        texts,
    )
