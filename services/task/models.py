"""All tables of the Postgres schema `task`. Importing this module adds all of them to `metadata`."""

from services.task.jobs.models import jobs
from services.task.projects.models import projects
from services.task.reminders.models import reminders
from services.task.schema import metadata
from services.task.suggestions.models import ai_calls, suggestions
from services.task.tasks.models import former_members, tasks

__all__ = [
    "ai_calls",
    "former_members",
    "jobs",
    "metadata",
    "projects",
    "reminders",
    "suggestions",
    "tasks",
]
