"""The NATS server with JetStream for one machine."""

import json
import signal
from pathlib import Path

from deploy.local import binaries
from deploy.local.probes import greeting
from deploy.local.program import Program
from services.platform.generated_secrets import secret

# `store` and `password` are quoted already: NATS accepts JSON strings. Every message is synced to disk before it is
# acknowledged.
_CONFIGURATION = """\
listen: "127.0.0.1:{port}"
server_name: taskflow
authorization {{ user: taskflow, password: {password} }}
jetstream {{
  store_dir: {store}
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: 8GB
}}
"""

_PASSWORD = "nats.password"


def url(folder: Path, port: int) -> str:
    return f"nats://taskflow:{secret(folder, _PASSWORD)}@127.0.0.1:{port}"


def program(folder: Path, port: int) -> Program:
    """NATS on `port` of this machine, its streams in `folder`/nats, for those who know the password in that folder."""
    configuration = folder / "nats.conf"

    async def prepare() -> None:
        text = _CONFIGURATION.format(
            port=port,
            store=json.dumps(str(folder / "nats")),
            password=json.dumps(secret(folder, _PASSWORD)),
        )
        configuration.touch(mode=0o600)
        configuration.chmod(0o600)
        configuration.write_text(text)

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
