"""Alembic runs this file. It applies the versions in one transaction, one process at a time."""

import psycopg
from alembic import context
from sqlalchemy import create_engine, text

from services.migrations.tables import all_metadata

# Key of the migration's advisory lock: any number that no other lock uses.
_LOCK = 7_402_002

url = context.config.attributes["url"]
# libpq reads the address: SQLAlchemy doesn't know several hosts.
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=all_metadata(),
        include_schemas=True,
        compare_server_default=False,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()
engine.dispose()
