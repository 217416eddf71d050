"""Tables of the schema `platform`, which every service writes to in its own transactions."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
)

metadata = MetaData(schema="platform")

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("published_at", DateTime(timezone=True)),
    # Where it stands in the stream: what a broker that lost its disk has to be sent again.
    Column("stream_sequence", BigInteger),
    Index("outbox_unpublished", "id", postgresql_where="published_at IS NULL"),
    Index("outbox_published", "published_at"),
    Index("outbox_stream_sequence", "stream_sequence"),
)

# Instead of a stream's creation: the relay is to delete whatever stream there is, and begin a new one.
ANY_STREAM_GOES = ""

# One row: the stream that the outbox was published to, and how far.
relay_position = Table(
    "relay_position",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("stream_created", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
)

# Durable consumers of the stream. The relay alone writes these rows (consumers.py).
consumers = Table(
    "consumers",
    metadata,
    Column("name", Text, primary_key=True),
    # What it consumes: NATS subjects, with wildcards.
    Column("subjects", ARRAY(Text), nullable=False),
    # The consumer has processed all of its events up to this stream sequence.
    Column("floor", BigInteger, nullable=False),
    # Set while the consumer reads copies from the outbox: up to which stream sequence they were made.
    Column("copied_to", BigInteger),
    # The stream that holds the copies: when it was created, and its last sequence.
    Column("copies_created", Text, nullable=False, server_default=""),
    Column("copies_last", BigInteger, nullable=False, server_default="0"),
)

# Effects of events that have been had: one row per consumer and event, written in the effect's transaction.
consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", Text, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("consumed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("consumer", "event_id"),
    Index("consumed_events_age", "consumed_at"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("consumer", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("parked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("replayed_at", DateTime(timezone=True)),
    Index("dead_letters_event", "consumer", "event_id", unique=True),
    Index("dead_letters_parked", "parked_at", "id"),
    Index("dead_letters_waiting", "parked_at", "id", postgresql_where="replayed_at IS NULL"),
    Index("dead_letters_replayed", "replayed_at", postgresql_where="replayed_at IS NOT NULL"),
)

# First answers to requests that carried a request_id.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", Uuid, nullable=False),
    # HMAC: the request can hold a password.
    Column("request_hash", LargeBinary, nullable=False),
    Column("response", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("caller", "method", "request_id"),
    Index("idempotency_keys_age", "created_at"),
)
