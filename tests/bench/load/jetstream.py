"""JetStream without our code, on a stream configured like the product's."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, PubAck, StorageType, StreamConfig

_STREAM = "BENCH"
_SUBJECT = "bench.message"


@asynccontextmanager
async def _stream(url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream(timeout=10)
        await jetstream.add_stream(
            StreamConfig(
                name=_STREAM,
                subjects=["bench.>"],
                storage=StorageType.FILE,
                duplicate_window=120,
                allow_direct=True,
            )
        )
        try:
            yield jetstream
        finally:
            await jetstream.delete_stream(_STREAM)
    finally:
        await client.close()


async def messages(spec: Any, control: Any) -> dict[str, Any]:
    """Publish `rate` messages of `bytes` per second for `seconds`, and pull them. Result: milliseconds of each."""
    payload_size = spec["bytes"] - 8
    took: list[float] = []
    total = int(spec["rate"] * spec["seconds"])
    async with _stream(spec["nats"]) as jetstream:
        pulled = await jetstream.pull_subscribe(
            _SUBJECT, config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT), durable="bench"
        )

        async def pull() -> None:
            while len(took) < total:
                for message in await pulled.fetch(1, timeout=10):
                    sent = int.from_bytes(message.data[:8], "big")
                    took.append((time.monotonic_ns() - sent) / 1e6)
                    await message.ack()

        async def publish() -> None:
            sent = time.monotonic_ns().to_bytes(8, "big")
            await jetstream.publish(
                _SUBJECT, sent + bytes(payload_size), headers={"Nats-Msg-Id": str(uuid4())}
            )

        pulling = asyncio.create_task(pull())
        await control.start()
        begin = time.monotonic()
        calls = []
        for number in range(total):
            await asyncio.sleep(max(0, begin + number / spec["rate"] - time.monotonic()))
            calls.append(asyncio.create_task(publish()))
        await asyncio.gather(*calls, pulling)
    return {"milliseconds": took, "failed": total - len(took)}


async def publish(spec: Any, control: Any) -> dict[str, Any]:
    """Call `publish_async` with `payload` (base64), `count` times or for `seconds`, at nats-py's full concurrency.

    Result: acknowledged messages per second.
    """
    payload = base64.b64decode(spec["payload"])
    identities = [str(uuid4()) for _ in range(spec["count"])]
    acknowledged = 0
    last = 0.0

    def taken(future: asyncio.Future[PubAck]) -> None:
        nonlocal acknowledged, last
        if not future.cancelled() and future.exception() is None:
            acknowledged += 1
            last = time.monotonic()

    async with _stream(spec["nats"]) as jetstream:
        await control.start()
        begin = time.monotonic()
        futures = []
        for identity in identities:
            if time.monotonic() > begin + spec["seconds"]:
                break
            future = await jetstream.publish_async(
                _SUBJECT, payload, wait_stall=30, headers={"Nats-Msg-Id": identity}
            )
            future.add_done_callback(taken)
            futures.append(future)
        await asyncio.gather(*futures)
    return {"rate": acknowledged / (last - begin), "failed": len(futures) - acknowledged}
