"""Creates the tables that every service writes to: outbox, consumed events, dead letters, idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SCHEMA = "platform"


def upgrade() -> None:
    op.execute("CREATE SCHEMA platform")
    now = sa.func.now()
    at = sa.DateTime(timezone=True)

    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("event_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("created_at", at, nullable=False, server_default=now),
        sa.Column("published_at", at),
        sa.Column("stream_sequence", sa.BigInteger),
        schema=SCHEMA,
    )
    unpublished = sa.text("published_at IS NULL")
    op.create_index(
        "outbox_unpublished", "outbox", ["id"], schema=SCHEMA, postgresql_where=unpublished
    )
    op.create_index("outbox_published", "outbox", ["published_at"], schema=SCHEMA)
    op.create_index("outbox_stream_sequence", "outbox", ["stream_sequence"], schema=SCHEMA)

    op.create_table(
        "relay_position",
        sa.Column("stream", sa.Text, primary_key=True),
        sa.Column("stream_created", sa.Text, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        schema=SCHEMA,
    )

    op.create_table(
        "consumed_events",
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Uuid, primary_key=True),
        sa.Column("consumed_at", at, nullable=False, server_default=now),
        schema=SCHEMA,
    )
    op.create_index("consumed_events_age", "consumed_events", ["consumed_at"], schema=SCHEMA)

    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("parked_at", at, nullable=False, server_default=now),
        sa.Column("replayed_at", at),
        schema=SCHEMA,
    )
    op.create_index(
        "dead_letters_event", "dead_letters", ["consumer", "event_id"], unique=True, schema=SCHEMA
    )
    op.create_index("dead_letters_parked", "dead_letters", ["parked_at", "id"], schema=SCHEMA)

    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text, primary_key=True),
        sa.Column("method", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Uuid, primary_key=True),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("created_at", at, nullable=False, server_default=now),
        schema=SCHEMA,
    )
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at"], schema=SCHEMA)
