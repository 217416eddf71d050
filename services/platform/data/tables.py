"""Tables of the schema `platform`. Every service writes to them in its own transactions."""

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
    text,
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
    # The event's sequence in the stream. If NATS lost its disk, the relay publishes all events beyond its end again.
    Column("stream_sequence", BigInteger),
    Index("outbox_unpublished", "id", postgresql_where="published_at IS NULL"),
    # The unpublished events of each workspace, which the subject names.
    Index(
        "outbox_turns",
        text("split_part(subject, '.', 2)"),
        "id",
        postgresql_where="published_at IS NULL",
    ),
    Index("outbox_published", "published_at"),
    Index("outbox_stream_sequence", "stream_sequence"),
)

# Sentinel value of `stream_created`: the relay must delete and recreate the stream.
RECREATE_STREAM = ""

# One row: when the event stream was created, and its last sequence that the outbox knows.
relay_position = Table(
    "relay_position",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("stream_created", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
)

# Durable consumers of the event stream. Only the relay writes these rows (events/consumer_keeper.py).
consumers = Table(
    "consumers",
    metadata,
    Column("name", Text, primary_key=True),
    # NATS subjects, with wildcards, of the events that the consumer gets.
    Column("subjects", ARRAY(Text), nullable=False),
    # The consumer has processed all of its events up to this stream sequence.
    Column("floor", BigInteger, nullable=False),
    # Set while the consumer reads copies: the stream sequence up to which events were copied.
    Column("copied_to", BigInteger),
    # When the consumer's stream of copies was created, and that stream's last sequence.
    Column("copies_created", Text, nullable=False, server_default=""),
    Column("copies_last", BigInteger, nullable=False, server_default="0"),
)

# Events already processed, by consumer. Written in the transaction of the event's effect.
consumed_events = Table(
    "consumed_events",
    metadata,
    Column("consumer", Text, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("consumed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("consumer", "event_id"),
    Index("consumed_events_age", "consumed_at"),
)

# Events that a consumer failed on too often (events/dead_letters.py).
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

# First responses to requests that carried a request_id.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", Uuid, nullable=False),
    # An HMAC, because the request can contain a password.
    Column("request_hash", LargeBinary, nullable=False),
    Column("response", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("caller", "method", "request_id"),
    Index("idempotency_keys_age", "created_at"),
)
