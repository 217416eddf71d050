"""Publishing into JetStream without waiting for each acknowledgement.

nats-py's own `publish_async` never reports a refusal: it raises in a callback, and the caller waits for ever.
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
# Time limit for all acknowledgements of a batch (seconds).
_ACK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. JetStream drops a second message with the same id, unless the id is empty."""

    subject: str
    payload: bytes
    id: str = ""


@dataclass
class Published:
    """The stream sequences of a batch's stored messages, and why JetStream took no more (None: it took all)."""

    sequences: list[int] = field(default_factory=list)
    failure: Exception | None = None


class Publisher:
    """Publishes messages to JetStream over one NATS connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[int]] = {}

    async def publish_in_order(self, messages: Iterable[Outgoing], after: int) -> Published:
        """Publishes a batch that follows the stream sequence `after`.

        Each message names the sequence before its own, so JetStream takes nothing after the first message that it
        refuses. Messages of a killed relay can still arrive and take those sequences. So each message also names the
        id of its predecessor.
        """
        futures = []
        previous = ""
        for sequence, message in enumerate(messages, start=after):
            # nats-py keeps messages while NATS is down, and sends them on reconnecting. If NATS lost its newest events,
            # the kept messages would take their sequences, and `refill` couldn't notice the loss.
            headers = {"Nats-Expected-Last-Sequence": str(sequence)}
            if message.id:
                headers["Nats-Msg-Id"] = message.id
            if previous:
                headers["Nats-Expected-Last-Msg-Id"] = previous
            previous = message.id
            futures.append(await self.publish(message.subject, message.payload, headers))
        # If JetStream took a message after a refused one in spite of the headers, `refill` finds that message.
        published = Published()
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                for future in futures:
                    published.sequences.append(await future)
        except (TimeoutError, nats.errors.Error) as error:
            published.failure = error
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)
        return published

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str]
    ) -> asyncio.Future[int]:
        """Sends a message. The future returns its stream sequence, or raises nats.js.errors.Error.

        The future has no time limit of its own: cancel it when no answer comes.
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
