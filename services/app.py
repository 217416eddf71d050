"""The composition root: the only file that knows every service."""

import asyncio
from collections.abc import Callable
from functools import partial

import grpc.aio
import structlog

from services.auth import logic as auth_logic
from services.auth import rpc as auth_rpc
from services.auth.tokens import SigningKeys
from services.migrations import wait_until_current
from services.notification import recovery as notification_recovery
from services.notification import rpc as notification_rpc
from services.platform import recovery, retention, telemetry
from services.platform.bus import Bus
from services.platform.channels import internal_channel
from services.platform.config import Settings
from services.platform.db import Database
from services.platform.health import Check, Health
from services.platform.identity import Identity, KeySource
from services.platform.interceptors import Gate
from services.platform.loops import beside
from services.platform.methods import services_of
from services.platform.relay import Relay
from services.platform.runtime import Loop, Platform
from services.platform.seal import Seal
from services.platform.server import Server
from services.task import logic as task_logic
from services.task import recovery as task_recovery
from services.task import rpc as task_rpc
from taskflow.auth.v1 import auth_service_pb2, auth_service_pb2_grpc

log = structlog.get_logger()

# Registers a service's servicers and returns the loops that run beside them.
Register = Callable[[grpc.aio.Server, Platform], list[Loop]]

_REGISTER: dict[str, Register] = {
    # A member's removal is one transaction with the unassignment of their tasks, which is the task service's to do.
    "auth": partial(auth_rpc.register, unassign=task_logic.unassign_member),
    "task": task_rpc.register,
    "notification": notification_rpc.register,
}


async def run_service(name: str, settings: Settings, stop: asyncio.Event) -> None:
    """Runs the auth, task or notification service until `stop` is set."""
    db = Database(settings, application=name)
    await db.open()
    bus = Bus(settings, name=name)
    db.on_events = bus.wake_relay
    identity = Identity(settings, _key_source(name, settings))
    gate = Gate(settings, identity)
    server = Server(
        settings,
        gate,
        port=getattr(settings, f"{name}_port"),
        http_port=getattr(settings, f"{name}_http_port"),
        services=services_of(name),
        checks=_checks(name, db, bus) | {"signing_keys": identity.wait_for_keys},
    )
    await wait_until_current(db)
    loops = _REGISTER[name](server.grpc, Platform(settings, db, bus, Seal(settings), gate))
    loops = [bus.connect(), identity.keep_keys(), gate.guard_streams(db), *loops]
    await beside(loops, server.run(stop))
    await bus.close()
    await db.close()


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the relay until `stop` is set."""
    db = Database(settings, application="relay")
    await db.open()
    bus = Bus(settings, name="relay")
    health = Health([], _checks("relay", db, bus))
    http = await telemetry.serve_http(settings.host, settings.relay_http_port, health.report)
    await wait_until_current(db)

    relay = Relay(settings, db, bus)

    async def publish() -> None:
        await bus.connect()
        await relay.run()

    deleting = retention.run(settings, db, retention.platform(settings))
    await beside([publish(), relay.report_backlog(), health.run(), deleting], stop.wait())
    http.close()
    await bus.close()
    await db.close()


async def grant_operator(settings: Settings, email: str) -> bool:
    """Lets a user see and replay dead letters; says what came of it. False when nobody has this e-mail."""
    db = Database(settings, application="operator")
    await db.open()
    try:
        async with db.transaction() as tx:
            granted = await auth_logic.grant_operator(tx, email)
    finally:
        await db.close()
    print(f"{email} is an operator now." if granted else f"Nobody is registered as {email}.")
    return granted


async def recover(settings: Settings) -> None:
    """Makes a database that was put back the beginning of everything else again, and says what that is.

    For a restored backup, and for the loss of Temporal's state. NATS and Temporal are filled anew from the database;
    what they still hold isn't asked. All of it or nothing happens, and twice does no harm.
    """
    db = Database(settings, application="recovery")
    await db.open()
    try:
        async with db.transaction() as tx:
            events = await recovery.publish_again(tx)
            await notification_recovery.reset_streams(tx)
            mails = await notification_recovery.release_mail(tx)
            reminders = await task_recovery.remind_again(tx, settings.reminder_offsets)
            jobs = await task_recovery.process_again(tx)
    finally:
        await db.close()
    print(
        f"To be published again: {events} events. To be planned again: reminders of {reminders} tasks. "
        f"To be begun again: {jobs} jobs and {mails} mails. Streams will be reset."
    )


def _key_source(name: str, settings: Settings) -> KeySource:
    if name == "auth":
        return SigningKeys(settings).public_keys
    stub = auth_service_pb2_grpc.AuthServiceStub(internal_channel(settings.auth))

    async def fetch() -> list[auth_service_pb2.SigningKey]:
        answer = await stub.GetSigningKeys(
            auth_service_pb2.GetSigningKeysRequest(), timeout=3, wait_for_ready=True
        )
        return list(answer.keys)

    return fetch


def _checks(name: str, db: Database, bus: Bus) -> dict[str, Check]:
    """What a process can't do its work without. Calls are served without NATS: events wait in the outbox."""

    async def nats() -> None:
        if not bus.connected:
            raise ConnectionError("not connected to NATS")

    checks: dict[str, Check] = {"postgres": db.ping}
    if name == "relay":
        checks["nats"] = nats
    return checks
