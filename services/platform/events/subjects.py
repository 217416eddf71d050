"""Names on NATS: the event stream, and the subjects and streams that belong to one consumer."""

import re
from collections.abc import Sequence

from nats.aio.msg import Msg

STREAM = "TASKFLOW"
# `taskflow._.replay.<consumer>.<event id>`: an event that is published again for one consumer.
_REPLAY = "taskflow._.replay"
# `copies.<consumer>.<event id>`, outside the event stream: a copy of an event that the consumer missed there.
_COPIES = "copies"


def replay_subject(consumer: str, event_id: str) -> str:
    """Where an event is published again for one consumer. Filters for events of workspaces don't match it."""
    return f"{_REPLAY}.{consumer}.{event_id}"


def copy_subject(consumer: str, event_id: str) -> str:
    """Where the relay publishes a copy of an event that the consumer missed in the event stream."""
    return f"{_COPIES}.{consumer}.{event_id}"


def copies_stream(consumer: str) -> str:
    """The stream that holds the consumer's copies."""
    return f"{STREAM}-{consumer}"


def replayed_event_id(subject: str) -> str:
    """The event's id in the subject of a replay; empty for other subjects."""
    return subject.rpartition(".")[2] if subject.startswith(f"{_REPLAY}.") else ""


def event_id(message: Msg) -> str:
    """The id of the event that a message carries, whether it is the original, a replay or a copy."""
    if message.subject.startswith((f"{_REPLAY}.", f"{_COPIES}.")):
        return message.subject.rpartition(".")[2]
    return (message.headers or {}).get("Nats-Msg-Id", "")


def pattern(filters: Sequence[str]) -> str:
    """A regular expression, for Postgres and Python, that matches the subjects that one of the filters matches."""
    parts = (re.escape(each).replace(r"\*", "[^.]+").replace(">", ".+") for each in filters)
    return f"^({'|'.join(parts)})$"
