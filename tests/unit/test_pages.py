"""Promises of pages: they end at the requested size or at 3 MiB, and no row is lost or repeated between them."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest

from services.platform.rpc import pages
from taskflow.task.v1.job_pb2 import Job


async def collected(sizes: list[int], page_size: int) -> tuple[list[list[int]], int]:
    """The row numbers on each page, and the most rows that one fetch asked for."""
    most = 0

    async def fetch(after: list[Any] | None, limit: int) -> Sequence[int]:
        nonlocal most
        most = max(most, limit)
        start = after[0] + 1 if after else 0
        return list(range(start, min(start + limit, len(sizes))))

    def message(row: int) -> Job:
        return Job(attempt=row, error="x" * sizes[row])

    found: list[list[int]] = []
    after: list[Any] | None = None
    while True:
        page, after = await pages.collect(fetch, message, lambda row: [row], after, page_size)
        assert sum(job.ByteSize() for job in page) < 4 * 1024 * 1024
        found.append([job.attempt for job in page])
        if after is None:
            return found, most


@pytest.mark.parametrize("count", [0, 1, 10, 11, 64, 65, 300, 1000])
async def test_pages_of_small_rows_end_at_the_requested_size(count: int) -> None:
    found, _ = await collected([1] * count, 10)
    assert [len(page) for page in found] == [10] * (count // 10) + (
        [count % 10] if count % 10 or not count else []
    )
    assert [*chain(*found)] == list(range(count))


async def test_pages_of_large_rows_end_at_3_mib_without_reading_many_more() -> None:
    found, most = await collected([150_000] * 100, 1000)
    assert [*chain(*found)] == list(range(100))
    assert [len(page) for page in found] == [21, 21, 21, 21, 16]
    assert most <= 64


async def test_a_row_that_is_larger_than_those_before_it_ends_the_page() -> None:
    found, _ = await collected([10] * 70 + [150_000] * 30, 1000)
    assert [*chain(*found)] == list(range(100))
    assert len(found) == 2
