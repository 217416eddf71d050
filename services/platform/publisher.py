"""Publishing into JetStream without waiting for each answer.

nats-py's own `publish_async` never tells of a refusal: it raises where nobody listens, and the caller waits for ever.
"""

import asyncio
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

_NO_RESPONDERS = "503"
# For the answers to a batch (seconds).
_ACK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be published; without an id JetStream doesn't look for repetitions of it."""

    subject: str
    payload: bytes
    id: str = ""


@dataclass
class Taken:
    """Sequences of a batch's first messages, which JetStream took, and why it took no more."""

    sequences: list[int] = field(default_factory=list)
    failure: Exception | None = None


class Publisher:
    """One connection's messages on their way into streams."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[int]] = {}

    async def publish_in_order(self, messages: Iterable[Outgoing], behind: int) -> Taken:
        """Publishes a batch behind the stream sequence `behind`, without waiting for each answer.

        Each message names its place. JetStream takes a batch in order, and nothing after the first refused message.
        A place alone isn't enough where a killed relay's messages still arrive: ids name the message before as well.
        """
        futures = []
        previous = ""
        for place, message in enumerate(messages, start=behind):
            # nats-py keeps what is published while NATS is down, and sends it as soon as it's back. On a disk that
            # lost its end it would take the place of what was lost there, which `refill` couldn't see any more.
            headers = {"Nats-Expected-Last-Sequence": str(place)}
            if message.id:
                headers["Nats-Msg-Id"] = message.id
            if previous:
                headers["Nats-Expected-Last-Msg-Id"] = previous
            previous = message.id
            futures.append(await self.publish(message.subject, message.payload, headers))
        # Up to the first that wasn't taken. If a later one was taken all the same, `refill` finds it.
        taken = Taken()
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                for future in futures:
                    taken.sequences.append(await future)
        except (TimeoutError, nats.errors.Error) as error:
            taken.failure = error
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
        return taken

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str]
    ) -> asyncio.Future[int]:
        """Sends a message; the future is its sequence in the stream, or raises nats.js.errors.Error.

        Nothing ends the wait when no answer comes: cancel the future.
        """
        if not self._inbox:
            inbox = self._client.new_inbox()
            await self._client.subscribe(f"{inbox}.*", cb=self._answered, pending_msgs_limit=0)
            self._inbox = inbox
        reply = f"{self._inbox}.{next(self._numbers)}"
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._waiting.pop(reply, None))
        self._waiting[reply] = future
        await self._client.publish(subject, payload, reply=reply, headers=dict(headers))
        return future

    async def _answered(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is None or future.done():
            return
        if (message.headers or {}).get("Status") == _NO_RESPONDERS:
            future.set_exception(nats.js.errors.NoStreamResponseError())
            return
        answer = json.loads(message.data)
        if "error" in answer:
            future.set_exception(nats.js.errors.APIError(**answer["error"]))
        else:
            future.set_result(answer["seq"])
