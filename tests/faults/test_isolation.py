"""Promise: workspaces are isolated. A foreign id in any id field of any RPC reveals and changes nothing."""

from collections.abc import AsyncIterator

import pytest

from services.platform.config import Settings
from tests.faults.isolation import (
    id_places,
    seal_places,
    try_foreign_ids,
    try_foreign_key,
    try_foreign_seals,
)
from tests.faults.rpcs import FieldPlace, Rpc
from tests.faults.samples import Samples, new_samples


@pytest.fixture(scope="module")
async def victim(services: Settings) -> AsyncIterator[Samples]:
    async with new_samples(services) as samples:
        yield samples


@pytest.fixture(scope="module")
async def stranger(services: Settings) -> AsyncIterator[Samples]:
    """The owner of another workspace with the same kinds of objects, who is no operator."""
    async with new_samples(services) as samples:
        yield samples


@pytest.mark.parametrize(
    ("rpc", "place"), [pytest.param(r, p, id=f"{r.name}.{p.path}") for r, p in id_places()]
)
async def test_a_foreign_id_is_answered_like_a_missing_one(
    victim: Samples, stranger: Samples, rpc: Rpc, place: FieldPlace
) -> None:
    assert not await try_foreign_ids(victim, stranger, rpc, place)


async def test_a_task_key_of_a_foreign_workspace_is_answered_like_a_missing_one(
    victim: Samples, stranger: Samples
) -> None:
    assert not await try_foreign_key(victim, stranger)


@pytest.mark.parametrize(
    ("rpc", "place"), [pytest.param(r, p, id=f"{r.name}.{p.path}") for r, p in seal_places()]
)
async def test_page_tokens_and_cursors_of_another_user_are_refused(
    victim: Samples, stranger: Samples, rpc: Rpc, place: FieldPlace
) -> None:
    assert not await try_foreign_seals(victim, stranger, rpc, place)
