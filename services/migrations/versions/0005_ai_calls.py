"""Creates the table of AI calls within the last hour, for the rate limit."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = "task"


def upgrade() -> None:
    op.create_table(
        "ai_calls",
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("allowed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("task_id", sa.Uuid()),
        sa.Column("text_revision", sa.BigInteger()),
        sa.PrimaryKeyConstraint("key", "number"),
        schema=SCHEMA,
    )
    op.create_index("ai_calls_text", "ai_calls", ["task_id", "text_revision"], schema=SCHEMA)
    op.create_index("ai_calls_age", "ai_calls", ["allowed_at"], schema=SCHEMA)
