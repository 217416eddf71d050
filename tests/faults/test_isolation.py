"""Promise: workspaces are isolated. Every RPC × every id field with a foreign id: nothing learned, nothing changed."""

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
from tests.faults.rpcs import Place, Rpc
from tests.faults.world import World, a_world


@pytest.fixture(scope="module")
async def victim(services: Settings) -> AsyncIterator[World]:
    async with a_world(services) as world:
        yield world


@pytest.fixture(scope="module")
async def stranger(services: Settings) -> AsyncIterator[World]:
    """Somebody who owns a workspace with all the same things in it, and is no operator."""
    async with a_world(services) as world:
        yield world


@pytest.mark.parametrize(
    ("rpc", "place"), [pytest.param(r, p, id=f"{r.name}.{p.path}") for r, p in id_places()]
)
async def test_a_foreign_id_is_as_good_as_one_that_does_not_exist(
    victim: World, stranger: World, rpc: Rpc, place: Place
) -> None:
    assert not await try_foreign_ids(victim, stranger, rpc, place)


async def test_a_key_names_nothing_in_a_workspace_of_others(victim: World, stranger: World) -> None:
    assert not await try_foreign_key(victim, stranger)


@pytest.mark.parametrize(
    ("rpc", "place"), [pytest.param(r, p, id=f"{r.name}.{p.path}") for r, p in seal_places()]
)
async def test_tokens_and_cursors_of_others_open_nothing(
    victim: World, stranger: World, rpc: Rpc, place: Place
) -> None:
    assert not await try_foreign_seals(victim, stranger, rpc, place)
