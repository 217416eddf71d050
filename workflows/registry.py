"""All workflow features; no other file lists them."""

from typing import Final

from workflows.due_times.registration import FEATURE as DUE_TIMES
from workflows.email.registration import FEATURE as EMAIL
from workflows.enrichment.registration import FEATURE as ENRICHMENT
from workflows.feature import Feature
from workflows.jobs.registration import FEATURE as JOBS
from workflows.reminders.registration import FEATURE as REMINDERS

FEATURES: Final[tuple[Feature, ...]] = (ENRICHMENT, REMINDERS, DUE_TIMES, JOBS, EMAIL)
