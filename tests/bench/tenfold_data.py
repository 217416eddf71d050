"""P9: creates per second (P1) and notification latency (P4) with ten times the data and streams.

Rounds alternate with the normal data set.
"""

from statistics import median

from tests.bench import notification_latency, unary
from tests.bench.rows import Bench, Limit, Result

_MOST = 1.2


async def tenfold(bench: Bench) -> Result:
    """P9: the worse of two ratios: the time of a create, and of a notification, relative to the base."""
    large_rates, small_rates = await unary.growth(bench)
    large_p50, small_p50 = await notification_latency.growth(bench)
    create = median(small / large for large, small in zip(large_rates, small_rates, strict=True))
    notice = median(large / small for large, small in zip(large_p50, small_p50, strict=True))
    worse = max(create, notice)
    return Result(
        worse,
        "× the base",
        [
            Limit(f"creates within {_MOST:g} ×", create <= _MOST),
            Limit(f"notifications within {_MOST:g} ×", notice <= _MOST),
        ],
        1.0,
        worse,
        {
            "creates": {"ratio": create, "large": large_rates, "base": small_rates},
            "notifications": {"ratio": notice, "large": large_p50, "base": small_p50},
        },
    )
