"""The NATS server with JetStream for one machine."""

import json
import signal
from pathlib import Path

from deploy.local import binaries
from deploy.local.probes import greeting
from deploy.local.program import Program

# `store` is quoted already: NATS accepts JSON strings. Every message is synced to disk before it is acknowledged.
_CONFIGURATION = """\
listen: "127.0.0.1:{port}"
server_name: taskflow
jetstream {{
  store_dir: {store}
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: 8GB
}}
"""


def program(folder: Path, port: int) -> Program:
    """NATS on `port`, its streams in `folder`/nats. Every process of this machine can connect, and no other."""
    configuration = folder / "nats.conf"

    async def prepare() -> None:
        store = json.dumps(str(folder / "nats"))
        configuration.write_text(_CONFIGURATION.format(port=port, store=store))

    async def ready() -> bool:
        return (await greeting("127.0.0.1", port)).startswith(b"INFO ")

    return Program(
        name="nats",
        about="NATS with JetStream",
        command=(str(binaries.script("nats-server")), "--config", str(configuration)),
        ready=ready,
        prepare=prepare,
        ports={"NATS_PORT": port},
        orphan_signal=signal.SIGTERM,
    )
