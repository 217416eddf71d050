"""An OpenAI-compatible HTTP endpoint that a test controls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer. `content` becomes a completion, unless `raw` gives the whole body."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    error: dict[str, Any] | None = None
    refusal: str | None = None
    finish_reason: str = "stop"
    delay: float = 0.0  # seconds
    hang_up: bool = False

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.error is not None or self.status >= 300:
            return json.dumps({"error": self.error or {"message": "told to fail"}}).encode()
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        completion = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1,
            "model": "fake",
            "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        return json.dumps(completion).encode()


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def task(self) -> dict[str, Any]:
        """The task as sent to the model, from between the delimiters."""
        lines = self.user.splitlines()
        task: dict[str, Any] = json.loads(lines[1])
        return task


Answer = Callable[[Request], Reply]


def suggestion(**kinds: dict[str, Any] | None) -> Reply:
    """A completion whose content is the JSON of these kinds."""
    return Reply(json.dumps(kinds))


def priority(value: str = "HIGH", reason: str = 'says "today"', confidence: float = 0.8) -> Reply:
    return suggestion(priority={"value": value, "reason": reason, "confidence": confidence})


class ModelServer:
    """`replies` are used in order; after that `answer` makes each reply."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.answer: Answer = lambda request: priority()
        # Body fields that this endpoint rejects with a 400.
        self.rejects: set[str] = set()
        self.connections = 0
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._open.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        for writer in self._open:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(head[0].split(" ")[1], headers, json.loads(raw or b"{}"))
        self.requests.append(request)
        reply = self._reply(request)
        await asyncio.sleep(reply.delay)
        if reply.hang_up:
            return False
        body = reply.body()
        lines = [f"HTTP/1.1 {reply.status} Told"]
        fields = {"content-type": "application/json", **reply.headers}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines += [f"content-length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        await writer.drain()
        return True

    def _reply(self, request: Request) -> Reply:
        for name in sorted(self.rejects):
            if name in request.body:
                hint = "; use max_completion_tokens" if name == "max_tokens" else ""
                message = f"Unsupported parameter: '{name}'{hint}"
                return Reply(status=400, error={"message": message, "param": name})
        return self.replies.pop(0) if self.replies else self.answer(request)


@asynccontextmanager
async def model_server(port: int = 0) -> AsyncIterator[ModelServer]:
    """Serve on the loopback until the block ends; port 0 means a free port."""
    fake = ModelServer()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", port, limit=2**20)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        fake.hang_up()
        await server.wait_closed()
