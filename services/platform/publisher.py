"""Publishing into JetStream without waiting for each answer.

nats-py's own `publish_async` never tells of a refusal: it raises where nobody listens, and the caller waits for ever.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping

import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

_NO_RESPONDERS = "503"


class Publisher:
    """One connection's messages on their way into streams."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[int]] = {}

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
