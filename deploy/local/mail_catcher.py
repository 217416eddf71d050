"""The mail catcher: accepts every mail and stores it as a file, so that none leaves the machine.

`python -m deploy.local.mail_catcher` listens on TASKFLOW_MAIL_PORT and writes to the folder `mail` in the data folder.
"""

import asyncio
import itertools
import signal
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from services.platform.config import load

_MAX_BYTES = 10 * 1024 * 1024


class Catcher:
    """Stores each mail as `<UTC time>-<number>.eml`, with its recipients on top as X-RcptTo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content or b""
        raw = content if isinstance(content, bytes) else content.encode()
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{next(self._numbers):04d}.eml"
        recipients = ", ".join(envelope.rcpt_tos).encode()
        # The file gets its final name at the end, so that readers of the folder see complete mails only.
        part = self._folder / f".{name}.part"
        part.write_bytes(b"X-RcptTo: " + recipients + b"\r\n" + raw)
        part.rename(self._folder / name)
        message_id = BytesHeaderParser().parsebytes(raw).get("Message-ID", "without Message-ID")
        print(
            f"caught {name}: {message_id}, {len(raw)} bytes, {len(envelope.rcpt_tos)} recipient(s)",
            flush=True,
        )
        return "250 OK"


async def serve(host: str, port: int, folder: Path) -> None:
    """Catch mail until SIGTERM or SIGINT."""
    catcher = Catcher(folder)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(
        lambda: SMTP(
            catcher,
            hostname="localhost",
            ident="TaskFlow mail catcher",
            data_size_limit=_MAX_BYTES,
            enable_SMTPUTF8=True,
            loop=loop,
        ),
        host,
        port,
    )
    print(f"catching mail on {host}:{port}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    settings = load()
    folder = settings.data_dir.resolve() / "mail"
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(settings.host, settings.mail_port, folder))


if __name__ == "__main__":
    main()
