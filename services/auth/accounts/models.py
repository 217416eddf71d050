"""The table of users."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)

from services.auth.schema import metadata

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    # The e-mail address as the user typed it: for display, and to send mail to.
    Column("email", Text, nullable=False),
    # The canonical form by which e-mail addresses are compared (emails.py).
    Column("email_key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("email_notifications", Boolean, nullable=False, server_default=text("true")),
    # Since when mail is on: only later notifications are mailed. NULL: all are mailed.
    Column("email_on_since", DateTime(timezone=True)),
    # When a mail server refused the address for good. NULL: no server did.
    Column("email_bounced_at", DateTime(timezone=True)),
    Column("operator", Boolean, nullable=False, server_default=text("false")),
    # An Argon2id hash with its parameters and salt.
    Column("password_hash", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("email_key", name="users_email_key"),
)
