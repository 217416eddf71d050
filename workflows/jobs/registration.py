"""The jobs feature, for registry.py."""

from typing import Final

from taskflow.event.v1.event_pb2 import JobChanged
from workflows.feature import Feature
from workflows.jobs import starts
from workflows.jobs.activities import JobActivities
from workflows.jobs.handlers import load_handlers
from workflows.jobs.workflow import ProcessJob

FEATURE: Final = Feature(
    definition=ProcessJob,
    build_activities=lambda settings, stubs: JobActivities(stubs.jobs, load_handlers()).by_queue(),
    starts={JobChanged: starts.on_job_changed},
)
