"""All benchmark rows, in the order they are measured.

Rows that need the same servers follow each other. P4 and P9 leave Temporal busy for a while, so rows that this could
disturb come before them or use another stack.
"""

from tests.bench import (
    enrichment,
    notification_latency,
    relay_backlog,
    startup,
    stream_fanout,
    tenfold_data,
    unary,
)
from tests.bench.rows import Row

ROWS = {
    row.id: row
    for row in (
        Row("P10", "make up, empty folder", "–", startup.cold_start),
        Row("P11", "memory of the stack at rest", "–", startup.at_rest),
        Row("P7", "outbox of 50,000 drained", "publish_async", relay_backlog.backlog),
        Row("P1", "CreateTask, 64 in flight", "bare echo", unary.creates),
        Row("P2", "GetTask, 64 in flight", "bare echo", unary.gets),
        Row("P5", "change to 1,000 streams", "bare fan-out", stream_fanout.fan_out),
        Row("P8", "200 tasks enriched", "no-op workflows", enrichment.suggestions),
        Row("P4", "commit to notification", "JetStream alone", notification_latency.latency),
        Row("P3", "ListTasks at 1,000,000", "at 1,000", unary.lists),
        Row("P6", "10,000 streams held", "–", stream_fanout.hold),
        Row("P9", "P1 and P4 at 10 ×", "at 1 ×", tenfold_data.tenfold),
    )
}
