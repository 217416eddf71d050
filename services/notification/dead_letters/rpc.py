"""The servicers for dead letters: operators list and replay them, and consumers without a database park events here."""

from datetime import datetime
from typing import Any
from uuid import UUID

import grpc.aio

from services.platform.events import dead_letters
from services.platform.events.dead_letters import FIRST, Place
from services.platform.rpc import directory, pages
from services.platform.rpc.grpc_types import Context
from services.platform.rpc.identity import current_caller
from services.platform.runtime import Loop, Platform
from taskflow.event.v1 import dead_letter_service_pb2_grpc
from taskflow.event.v1.dead_letter_service_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ParkEventRequest,
    ParkEventResponse,
    ReplayDeadLetterRequest,
    ReplayDeadLetterResponse,
)


def register(server: grpc.aio.Server, platform: Platform) -> list[Loop]:
    dead_letter_service_pb2_grpc.add_DeadLetterServiceServicer_to_server(
        DeadLetters(platform), server
    )
    dead_letter_service_pb2_grpc.add_DeadLetterInternalServiceServicer_to_server(
        Parking(platform), server
    )
    return []


class DeadLetters(dead_letter_service_pb2_grpc.DeadLetterServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db
        self._seal = platform.seal

    async def ListDeadLetters(
        self, request: ListDeadLettersRequest, context: Context
    ) -> ListDeadLettersResponse:
        caller = current_caller()
        async with self._db.read() as tx:
            await directory.require_operator(tx, caller)

            async def fetch(after: list[Any] | None, count: int) -> list[dead_letters.DeadLetter]:
                place = _place(*after) if after else FIRST
                return await dead_letters.page(
                    tx, place, count, include_replayed=request.include_replayed
                )

            page, token = await pages.read(
                self._seal, caller.user_id, request, fetch, _message, _position
            )
        return ListDeadLettersResponse(dead_letters=page, next_page_token=token)

    async def ReplayDeadLetter(
        self, request: ReplayDeadLetterRequest, context: Context
    ) -> ReplayDeadLetterResponse:
        async with self._db.transaction() as tx:
            await directory.require_operator(tx, current_caller())
            letter = await dead_letters.replay(tx, UUID(request.id))
        return ReplayDeadLetterResponse(dead_letter=_message(letter))


class Parking(dead_letter_service_pb2_grpc.DeadLetterInternalServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._db = platform.db

    async def ParkEvent(self, request: ParkEventRequest, context: Context) -> ParkEventResponse:
        async with self._db.transaction() as tx:
            await dead_letters.park(
                tx,
                consumer=request.consumer,
                subject=request.subject,
                event_id=request.event_id,
                payload=request.payload,
                error=request.error,
            )
        return ParkEventResponse()


def _position(row: dead_letters.DeadLetter) -> list[Any]:
    return [row.parked_at.isoformat(), str(row.id)]


def _place(parked_at: str, letter_id: str) -> Place:
    return Place(datetime.fromisoformat(parked_at), UUID(letter_id))


def _message(row: dead_letters.DeadLetter) -> DeadLetter:
    letter = DeadLetter(
        id=str(row.id),
        consumer=row.consumer,
        event_id=row.event_id,
        event_type=row.event_type,
        error=row.error,
    )
    letter.park_time.FromDatetime(row.parked_at)
    if row.replayed_at:
        letter.replay_time.FromDatetime(row.replayed_at)
    return letter
