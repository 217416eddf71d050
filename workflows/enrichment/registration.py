"""The enrichment feature, for registry.py."""

from typing import Final

from services.platform.config import Settings
from taskflow.event.v1.event_pb2 import SuggestionsRequested, TaskCreated, TaskUpdated
from workflows.enrichment import starts
from workflows.enrichment.activities import EnrichmentActivities
from workflows.enrichment.enrichers import Enricher
from workflows.enrichment.enrichers.heuristic import HeuristicEnricher
from workflows.enrichment.text_process import TextProcess
from workflows.enrichment.workflow import EnrichTask
from workflows.feature import Activities, Feature
from workflows.service_stubs import ServiceStubs


def _build_activities(settings: Settings, stubs: ServiceStubs) -> Activities:
    enricher = build_enricher(settings, TextProcess(settings.text_cpu_seconds))
    return EnrichmentActivities(stubs.suggestions, enricher).by_queue()


def build_enricher(settings: Settings, texts: TextProcess) -> Enricher:
    """The model when it is configured, else the offline rules."""
    if not (settings.ai_base_url and settings.ai_model):
        return HeuristicEnricher(texts)
    # Import the client library only for a configured model: loading it takes most of a second and 30 MB.
    from workflows.enrichment.enrichers.model import ModelEnricher, ModelSettings

    endpoint = ModelSettings(
        settings.ai_base_url,
        settings.ai_model,
        settings.ai_api_key.get_secret_value() if settings.ai_api_key else "",
        timeout=settings.ai_timeout,
        output_tokens=settings.ai_max_output_tokens,
        allow_private=settings.ai_allow_private,
    )
    return ModelEnricher(endpoint, texts)


FEATURE: Final = Feature(
    definition=EnrichTask,
    build_activities=_build_activities,
    starts={
        TaskCreated: starts.on_task_created,
        TaskUpdated: starts.on_task_updated,
        SuggestionsRequested: starts.on_suggestions_requested,
    },
)
