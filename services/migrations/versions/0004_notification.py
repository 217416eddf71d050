"""Creates the tables of feeds, notifications, changes and mails."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "notification"


def upgrade() -> None:
    op.execute(sa.schema.CreateSchema(SCHEMA))
    op.create_table(
        "epochs",
        sa.Column("id", sa.Uuid),
        sa.PrimaryKeyConstraint("id"),
        schema=SCHEMA,
    )
    op.execute(f"INSERT INTO {SCHEMA}.epochs (id) VALUES (gen_random_uuid())")
    op.create_table(
        "feeds",
        sa.Column("user_id", sa.Uuid),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id"),
        schema=SCHEMA,
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("workspace_id", sa.Uuid, nullable=False),
        sa.Column("task_id", sa.Uuid, nullable=False),
        sa.Column("task_key", sa.Text, nullable=False),
        sa.Column("task_title", sa.Text, nullable=False),
        sa.Column("headline", sa.Text, nullable=False),
        sa.Column("actor_id", sa.Uuid),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True)),
        sa.Column("email_batch_id", sa.Uuid),
        sa.Column("emailed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id", "user_id", name="notifications_event"),
        schema=SCHEMA,
    )
    op.create_index(
        "notifications_user", "notifications", ["user_id", "sequence"], unique=True, schema=SCHEMA
    )
    op.create_index(
        "notifications_unread",
        "notifications",
        ["user_id", "sequence"],
        postgresql_where=sa.text("read_at IS NULL"),
        schema=SCHEMA,
    )
    op.create_index(
        "notifications_email_batch",
        "notifications",
        ["email_batch_id"],
        postgresql_where=sa.text("email_batch_id IS NOT NULL"),
        schema=SCHEMA,
    )
    op.create_table(
        "changes",
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.PrimaryKeyConstraint("user_id", "sequence"),
        schema=SCHEMA,
    )
    op.create_index("changes_age", "changes", ["created_at"], schema=SCHEMA)
    op.create_table(
        "email_batches",
        sa.Column("id", sa.Uuid),
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id"),
        schema=SCHEMA,
    )
