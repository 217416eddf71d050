"""All kinds of notifications. `notices` returns the notifications to write for an event."""

from uuid import UUID

from services.notification.kinds.assigned import ASSIGNED
from services.notification.kinds.deadline import DEADLINE_APPROACHING, OVERDUE
from services.notification.kinds.kind import Notice
from services.notification.kinds.status_changed import STATUS_CHANGED
from services.platform.events import types as event_types
from services.platform.events.consumer import PoisonEvent
from taskflow.event.v1.event_pb2 import Event

# All kinds, by priority: for one event a user gets only the first kind that applies.
KINDS = (ASSIGNED, STATUS_CHANGED, DEADLINE_APPROACHING, OVERDUE)

# NATS subjects of the events that cause notifications.
EVENT_SUBJECTS = event_types.subjects(
    *dict.fromkeys(facts for kind in KINDS for facts in kind.facts)
)


def notices(event: Event) -> list[Notice]:
    """The notifications that an event causes: at most one per user, none for the event's actor.

    Raises PoisonEvent for unknown facts and for ids that aren't UUIDs.
    """
    field = event.WhichOneof("facts")
    if field is None:
        raise PoisonEvent("the event holds no facts that are known here")
    facts = type(getattr(event, field))
    found: dict[str, Notice] = {}
    try:
        for kind in KINDS:
            if facts not in kind.facts:
                continue
            for user_id in kind.recipients(event):
                if user_id and user_id != event.actor_id and user_id not in found:
                    found[user_id] = Notice(
                        event_id=UUID(event.id),
                        workspace_id=UUID(event.workspace_id),
                        user_id=UUID(user_id),
                        kind=kind.number,
                        subject=kind.subject(event),
                        headline=kind.headline(event),
                        actor_id=UUID(event.actor_id) if event.actor_id else None,
                    )
    except ValueError:
        raise PoisonEvent("the event holds an id that isn't a UUID, or no valid day") from None
    return list(found.values())
