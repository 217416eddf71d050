"""Ports: checks that those of the settings are free, and finds free ones."""

import errno
import random
import socket
from collections.abc import Iterable

from deploy.local.program import Program, StackError
from services.platform.config import Settings

# Distance between the ports of two servers: replicas listen on the ports in between.
_STEP = 30


def check_ports(host: str, programs: Iterable[Program]) -> None:
    """Raise StackError naming each port that can't be used and the setting that moves it."""
    owners: dict[int, str] = {}
    problems = []
    for program in programs:
        for setting, port in program.ports.items():
            change = f"set TASKFLOW_{setting} to a free port"
            if port in owners:
                problems.append(
                    f"Port {port} is wanted by both {owners[port]} and {program.name}: {change}."
                )
            elif reason := _refusal(host, port):
                problems.append(f"Port {port} ({program.name}) {reason}: {change}.")
            owners[port] = program.name
    if problems:
        raise StackError("\n".join(problems))


def _refusal(host: str, port: int) -> str:
    """Why a server can't listen on the port; "" when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # The servers set SO_REUSEADDR too: an earlier run's connections in TIME_WAIT don't block a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is taken"
            return f"can't be used on {host} ({error.strerror})"
    return ""


def free_ports(count: int) -> list[int]:
    """Free ports below 32768: the kernel doesn't assign those to outgoing connections."""
    found: list[int] = []
    first = random.randrange(10_000, 25_000)
    for port in range(first, 32_768):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("there are no free ports")


def whole_stack() -> dict[str, int]:
    """Settings with a free port for every server."""
    names = [
        name for name in Settings.model_fields if name.endswith("_port") and name != "smtp_port"
    ]
    return dict(zip(names, free_ports(len(names) * _STEP)[::_STEP], strict=True))
