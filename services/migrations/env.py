"""Run by Alembic: applies the versions in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import create_engine, text

from services.auth.models import metadata as auth
from services.notification.models import metadata as notification
from services.platform.tables import metadata as platform
from services.task.models import metadata as task

# Any number that nothing else locks.
_LOCK = 7_402_002

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=[platform, auth, task, notification],
        include_schemas=True,
        compare_server_default=False,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()
engine.dispose()
