"""Adds the lists of former members with work left to do, and an index by which workspaces take turns in the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "former_members",
        sa.Column("workspace_id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column(
            "removed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        schema="task",
    )
    op.create_table(
        "former_members",
        sa.Column("workspace_id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("up_to", sa.BigInteger(), nullable=False),
        sa.Column("done_to", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column(
            "removed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        schema="notification",
    )
    op.execute(
        "CREATE INDEX outbox_turns ON platform.outbox (split_part(subject, '.', 2), id)"
        " WHERE published_at IS NULL"
    )
