"""The Prometheus metrics of all processes; docs/operations.md explains those that need an operator's attention."""

from prometheus_client import Counter, Gauge, Histogram

# Buckets for calls (seconds): from well below a call's usual duration up to its default time limit.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Buckets for jobs and workflows (seconds): a suggestion takes less than a second, a reminder waits for weeks.
_LONG_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400, 7 * 86400)

CALLS = Histogram(
    "taskflow_calls_seconds", "Duration of unary calls", ["method", "code"], buckets=_BUCKETS
)
CALLER_REFUSALS = Counter(
    "taskflow_caller_refusals_total",
    "Calls and streams refused because their user, workspace or address had reached a limit",
    ["limit", "scope"],
)
STREAMS_ENDED = Counter("taskflow_streams_ended_total", "Ended streams", ["method", "code"])
STREAMS_OPEN = Gauge("taskflow_streams_open", "Open streams", ["method"])
STREAM_MESSAGES = Counter("taskflow_stream_messages_total", "Messages sent on streams", ["method"])
OUTBOX_DEPTH = Gauge("taskflow_outbox_depth", "Events not yet published")
OUTBOX_AGE = Gauge("taskflow_outbox_age_seconds", "Age of the oldest event not yet published")
EVENTS_PUBLISHED = Counter("taskflow_events_published_total", "Events that JetStream stored")
EVENTS_CONSUMED = Counter(
    "taskflow_events_consumed_total", "Events by consumer and result", ["consumer", "result"]
)
CONSUMER_LAG = Gauge(
    "taskflow_consumer_lag", "Events that a consumer has yet to process", ["consumer"]
)
CONSUMER_UNREAD = Gauge(
    "taskflow_consumer_unread_share",
    "Part of what the event stream may hold, in bytes or in age, that a consumer has yet to process",
    ["consumer"],
)
EVENTS_COPIED = Counter(
    "taskflow_events_copied_total",
    "Events served to a consumer from the outbox, because it was about to miss them in the stream",
    ["consumer"],
)
EVENTS_LOST = Counter(
    "taskflow_events_lost_total",
    "Events that were deleted at the end of their retention before a consumer processed them",
    ["consumer"],
)
DATABASE_LOSSES = Counter(
    "taskflow_database_losses_total",
    "Times that the database lacked committed changes, as after a failover to a standby that was behind",
)
DEAD_LETTERS = Counter("taskflow_dead_letters_total", "Events parked as dead letters", ["consumer"])
ROWS_DELETED = Counter(
    "taskflow_rows_deleted_total", "Rows deleted at the end of their retention", ["kind"]
)
EMAIL_BOUNCES = Counter(
    "taskflow_email_bounces_total", "Users whose address a mail server refused for good"
)
JOB_SECONDS = Histogram(
    "taskflow_job_seconds",
    "Time from claiming a payload job to its end",
    ["state"],
    buckets=_LONG_BUCKETS,
)
ACTIVITY_SECONDS = Histogram(
    "taskflow_activity_seconds", "Duration of activities", ["activity", "result"], buckets=_BUCKETS
)
WORKFLOW_SECONDS = Histogram(
    "taskflow_workflow_seconds",
    "Duration of workflow runs that ended",
    ["workflow", "result"],
    buckets=_LONG_BUCKETS,
)
