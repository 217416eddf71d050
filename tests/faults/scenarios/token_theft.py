"""Refresh tokens used concurrently, and reused by a thief, at both auth processes."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID

import grpc.aio

from services.auth.sessions.tokens import refresh_token
from services.platform.rpc.seal import Seal
from taskflow.auth.v1.auth_service_pb2 import RefreshTokenRequest, Tokens
from taskflow.auth.v1.user_service_pb2 import GetCurrentUserRequest
from taskflow.notification.v1.notification_service_pb2 import GetUnreadCountRequest
from tests.faults.harness.scenario import Run, Tally
from tests.faults.harness.world import Metadata, SeededPerson, Stubs, World, a_world, stubs_at
from tests.integration.people import bearer, read_refusal

PROMISE = "Token theft is noticed"

_USES = 8
# Token families tested concurrently.
_AT_ONCE = 16
# By the contract, a refresh token may be reused for this long (seconds), in case an answer was lost.
_GRACE = 10


@dataclass
class Thief:
    """A thief with an old refresh token, and the token family it belongs to."""

    world: World
    auth: Sequence[Stubs]
    notification: Stubs
    random: random.Random
    tally: Tally

    async def family(self, number: int, person: SeededPerson) -> None:
        token = refresh_token(Seal(self.world.settings), UUID(person.session_id), 1)
        child = await self._used_at_once(token)
        if child is None:
            return
        if number % 2:
            # The owner refreshes again, so that the thief's token is two generations old.
            newest = await self._refreshed(child.refresh_token)
            if not isinstance(newest, Tokens):
                self.tally.broken.append(f"the token of a live family was refused: {newest}")
                return
            child = newest
        else:
            await self._let_pass(person)
        self.tally.faults += 1
        refused = await self._refreshed(token)
        self.tally.expect(
            refused == "UNAUTHENTICATED REFRESH_TOKEN_REUSED", f"a replay got {refused}"
        )
        await self._dead(child)

    async def _used_at_once(self, token: str) -> Tokens | None:
        answers = await asyncio.gather(*(self._refreshed(token) for _ in range(_USES)))
        children = {answer.refresh_token for answer in answers if isinstance(answer, Tokens)}
        for answer in answers:
            self.tally.expect(
                isinstance(answer, Tokens), f"one of {_USES} concurrent uses got {answer}"
            )
        self.tally.doubled += max(0, len(children) - 1)
        self.tally.expect(bool(children), "a family had no successor")
        return next((answer for answer in answers if isinstance(answer, Tokens)), None)

    async def _let_pass(self, person: SeededPerson) -> None:
        """Wait until the token may no longer be reused."""
        await self.world.fetch(
            "UPDATE auth.sessions SET rotated_at = rotated_at - make_interval(secs => %(grace)s)"
            " WHERE id = %(session)s",
            {"grace": _GRACE, "session": person.session_id},
        )

    async def _dead(self, child: Tokens) -> None:
        """Check that no token of the family is accepted at any process."""
        how = bearer(child.access_token)
        answers = [
            await self._refreshed(child.refresh_token),
            *[await self._asked(stubs, how) for stubs in self.auth],
            await self._asked(self.notification, how, notification=True),
        ]
        for answer in answers:
            leaked = not isinstance(answer, str)
            self.tally.leaked += leaked
            self.tally.expect(
                leaked or answer == "UNAUTHENTICATED SESSION_REVOKED",
                f"a revoked family got {answer}",
            )

    async def _refreshed(self, token: str) -> Tokens | str:
        """New tokens, or the reason of the refusal."""
        self.tally.operations += 1
        stub = self.random.choice(self.auth).auth
        try:
            answer = await stub.RefreshToken(RefreshTokenRequest(refresh_token=token), timeout=30)
        except grpc.aio.AioRpcError as error:
            return _said(error)
        tokens: Tokens = answer.tokens
        return tokens

    async def _asked(self, stubs: Stubs, how: Metadata, *, notification: bool = False) -> object:
        self.tally.operations += 1
        try:
            if notification:
                return await stubs.notifications.GetUnreadCount(
                    GetUnreadCountRequest(), metadata=how, timeout=30
                )
            return await stubs.users.GetCurrentUser(
                GetCurrentUserRequest(), metadata=how, timeout=30
            )
        except grpc.aio.AioRpcError as error:
            return _said(error)


async def run(run: Run, tally: Tally) -> None:
    count = run.choose(60, 1_000)
    slots = asyncio.Semaphore(_AT_ONCE)
    async with AsyncExitStack() as opened:
        world = await opened.enter_async_context(a_world(run, people=count))
        auth = [
            await opened.enter_async_context(stubs_at(run.address(name)))
            for name in ("auth", "auth-2")
        ]
        notification = await opened.enter_async_context(stubs_at(run.address("notification-2")))
        thief = Thief(world, auth, notification, run.random, tally)

        async def one(number: int, person: SeededPerson) -> None:
            async with slots:
                await thief.family(number, person)

        await asyncio.gather(*(one(n, person) for n, person in enumerate(world.people)))
        rows = await world.fetch(
            "SELECT count(*) FROM auth.sessions s JOIN auth.members m USING (user_id)"
            " WHERE m.workspace_id = %(workspace)s AND s.revoked_at IS NULL",
            {"workspace": world.workspace.id},
        )
    tally.expect(not rows[0][0], f"{rows[0][0]} of the replayed families are still valid")
    tally.figures["families"] = f"{count:,}, each used {_USES} times at once"


def _said(error: grpc.aio.AioRpcError) -> str:
    refusal = read_refusal(error)
    return f"{refusal.code.name} {refusal.reason}"
