"""Fixtures of the SDK's and the CLI's tests: a server in memory."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.client_double import PASSWORD, Double, serving


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    async with serving(Double(accounts={"ada@example.com": PASSWORD})) as running:
        running.add_project("OPS")
        yield running
