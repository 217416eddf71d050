"""Creates the table of the event stream's durable consumers and their progress."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "consumers",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("subjects", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=False),
        sa.Column("copied_to", sa.BigInteger()),
        sa.Column("copies_created", sa.Text(), nullable=False, server_default=""),
        sa.Column("copies_last", sa.BigInteger(), nullable=False, server_default="0"),
        schema="platform",
    )
