"""The tables of workspaces and their members."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from services.auth.accounts.models import users
from services.auth.schema import metadata

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("ai_enabled", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    # Counts the changes of the workspace's memberships; each change gives its number to the membership as revision. So
    # a user who leaves and comes back gets a higher revision.
    Column("members_revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

members = Table(
    "members",
    metadata,
    Column("workspace_id", Uuid, ForeignKey(workspaces.c.id), nullable=False),
    Column("user_id", Uuid, ForeignKey(users.c.id), nullable=False),
    # A number of the enum taskflow.auth.v1.Role.
    Column("role", SmallInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("workspace_id", "user_id"),
    # Lists a user's workspaces. The index is partial, so that only statements with `role > 0` use it. A statement that
    # names the workspace too should use the primary key, because a user can be in hundreds of workspaces.
    Index("members_user", "user_id", "workspace_id", postgresql_where=text("role > 0")),
    Index("members_joined", "workspace_id", "created_at", "user_id"),
    # Counts a workspace's owners; 4 is taskflow.auth.v1.ROLE_OWNER.
    Index("members_owners", "workspace_id", postgresql_where=text("role = 4")),
)
