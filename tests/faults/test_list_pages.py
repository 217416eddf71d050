"""Promise: a page of any list ends early, so that clients with gRPC's default limit of 4 MiB can read it."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from services.platform.config import Settings
from services.platform.data.db import Statement
from services.platform.rpc import pages
from taskflow.event.v1.dead_letter_service_pb2 import ListDeadLettersRequest
from taskflow.event.v1.dead_letter_service_pb2_grpc import DeadLetterServiceStub
from tests.faults.rpcs import Rpc, every_rpc
from tests.faults.samples import Samples, new_samples

_LISTS = [rpc for rpc in every_rpc() if "page_size" in rpc.method.input_type.fields_by_name]
_PARK = Statement(
    text(
        "INSERT INTO platform.dead_letters"
        " (id, consumer, event_id, event_type, subject, payload, error)"
        " SELECT gen_random_uuid(), 'large', lpad(n::text, 100, '0'), repeat('x', 101), '', '',"
        " repeat('🪝', 1000)"
        " FROM generate_series(1, 1100) AS n"
    )
)


@pytest.fixture(scope="module")
async def samples(services: Settings) -> AsyncIterator[Samples]:
    """At least two objects of each kind."""
    async with new_samples(services) as samples:
        await samples.team.workspace(samples.owner, display_name="Another")
        await samples.renew()
        yield samples


def _listed(rpc: Rpc) -> str:
    """The field of the response that holds the page."""
    [name] = [field.name for field in rpc.method.output_type.fields if field.is_repeated]
    return name


async def _pages(samples: Samples, rpc: Rpc) -> list[list[bytes]]:
    """The items of each page, when the caller asks for as many as possible."""
    call: Any = samples.channels[rpc.process].unary_unary(
        rpc.path,
        request_serializer=rpc.request.SerializeToString,
        response_deserializer=rpc.response.FromString,
    )
    request: Any = rpc.request(page_size=pages.MAX_SIZE)
    if "workspace_id" in rpc.method.input_type.fields_by_name:
        request.workspace_id = samples.workspace_id
    found = []
    while True:
        answer = await call(request, metadata=samples.credentials(rpc), timeout=30)
        found.append([item.SerializeToString() for item in getattr(answer, _listed(rpc))])
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


@pytest.mark.parametrize("rpc", _LISTS, ids=lambda rpc: rpc.name)
async def test_each_list_ends_its_page_once_it_has_enough_bytes(
    samples: Samples, rpc: Rpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    [expected] = await _pages(samples, rpc)
    assert len(expected) > 1
    monkeypatch.setattr(pages, "MAX_BYTES", 1)
    assert await _pages(samples, rpc) == [[item] for item in expected]


def test_every_rpc_that_returns_a_page_is_tested() -> None:
    named = {rpc.name for rpc in every_rpc() if rpc.ours and rpc.name.startswith("List")}
    assert {rpc.name for rpc in _LISTS} == named


async def test_a_thousand_long_errors_fit_a_client_with_the_default_limit(
    samples: Samples,
) -> None:
    async with samples.db.transaction() as tx:
        await tx.run(_PARK)
    stub = DeadLetterServiceStub(samples.channels["notification"])
    request = ListDeadLettersRequest(page_size=1000)
    ids: list[UUID] = []
    while True:
        answer = await stub.ListDeadLetters(request, metadata=samples.operator.credentials)
        ids += [UUID(letter.id) for letter in answer.dead_letters if letter.consumer == "large"]
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert len(ids) == len(set(ids)) == 1100
