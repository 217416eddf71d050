"""Creates the tables of users, sessions, workspaces, members and login attempts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE SCHEMA auth")
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column(
            "email_notifications", sa.Boolean(), nullable=False, server_default=sa.text("true")
        ),
        sa.Column("operator", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        _time("created_at"),
        _time("updated_at"),
        sa.UniqueConstraint("email_key", name="users_email_key"),
        schema="auth",
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("auth.users.id"), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, server_default=sa.text("1")),
        _time("rotated_at"),
        _time("created_at"),
        _time("last_used_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        schema="auth",
    )
    op.create_index("sessions_user", "sessions", ["user_id"], schema="auth")
    op.create_index("sessions_expiry", "sessions", ["expires_at"], schema="auth")
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("ai_enabled", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("members_revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        _time("created_at"),
        _time("updated_at"),
        schema="auth",
    )
    op.create_table(
        "members",
        sa.Column("workspace_id", sa.Uuid(), sa.ForeignKey("auth.workspaces.id"), nullable=False),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("auth.users.id"), nullable=False),
        sa.Column("role", sa.SmallInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("workspace_id", "user_id"),
        schema="auth",
    )
    op.create_index("members_user", "members", ["user_id", "workspace_id"], schema="auth")
    op.create_index(
        "members_joined", "members", ["workspace_id", "created_at", "user_id"], schema="auth"
    )
    op.create_table(
        "login_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        _time("attempted_at"),
        schema="auth",
    )
    op.create_index("login_attempts_key", "login_attempts", ["key", "attempted_at"], schema="auth")
    op.create_index("login_attempts_age", "login_attempts", ["attempted_at"], schema="auth")


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
