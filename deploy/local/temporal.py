"""Temporal's development server: the real engine, with SQLite as its store."""

import signal
from pathlib import Path

from deploy.local import binaries
from deploy.local.probes import grpc_call
from deploy.local.program import BACKGROUND, Program

# DescribeNamespaceRequest{namespace: "default"}, serialized: importing temporalio for this one call would cost 0.5 s.
_DESCRIBE_DEFAULT = b"\n\x07default"
_DESCRIBE = "/temporal.api.workflowservice.v1.WorkflowService/DescribeNamespace"


def program(folder: Path, port: int) -> Program:
    """Temporal on `port`, namespace `default`, its state in `folder`/temporal.db.

    It picks free ports on 127.0.0.1 for its internal services and metrics.
    """

    async def ready() -> bool:
        return await grpc_call("127.0.0.1", port, _DESCRIBE, _DESCRIBE_DEFAULT) is not None

    return Program(
        name="temporal",
        about="workflows",
        command=(
            *(*BACKGROUND, str(binaries.script("temporal")), "server", "start-dev", "--headless"),
            *("--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", str(folder / "temporal.db")),
            # SQLite's WAL doubles the workflows per second of the default journal. A crash of the process loses
            # nothing.
            *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
            # Workspaces whose work waits take turns (workflows/dispatcher.py).
            *("--dynamic-config-value", "matching.enableFairness=true"),
            *("--log-level", "error"),
        ),
        ready=ready,
        ports={"TEMPORAL_PORT": port},
        orphan_signal=signal.SIGTERM,
        stop_seconds=8.0,
    )
