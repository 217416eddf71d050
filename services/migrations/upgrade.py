"""Applies the migrations for `python -m services migrate`."""

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config

from services.migrations import HEAD
from services.platform.config import Settings

log = structlog.get_logger()


def upgrade(settings: Settings) -> None:
    """Migrates the database to the newest schema. Safe to run at any time, also several times at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = settings.postgres_owner
    command.upgrade(config, "head")
    log.info("schema is current", version=HEAD)
