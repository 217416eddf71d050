"""The composition root: the only file that lists the features of each process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc.aio

from services.auth.accounts import logic as account_logic
from services.auth.accounts import rpc as accounts
from services.auth.sessions import rpc as sessions
from services.auth.sessions.tokens import SigningKeys
from services.auth.workspaces import rpc as workspaces
from services.auth.workspaces.logic import Removal
from services.migrations import wait_until_current
from services.notification.dead_letters import rpc as dead_letters
from services.notification.email import recovery as email_recovery
from services.notification.email import rpc as email
from services.notification.inbox import former_members as inbox_members
from services.notification.inbox import rpc as inbox
from services.notification.stream import recovery as stream_recovery
from services.platform.background import run_background
from services.platform.config import Settings
from services.platform.data import retention
from services.platform.data.db import Database, Transaction
from services.platform.events import backlog, recovery
from services.platform.events import retention as platform_retention
from services.platform.events.bus import Bus
from services.platform.events.relay import Relay
from services.platform.http.probes import probes
from services.platform.http.server import http_server
from services.platform.observe.health import Check, Health
from services.platform.rpc.channels import internal_channel
from services.platform.rpc.gate import Gate
from services.platform.rpc.identity import Identity, KeySource
from services.platform.rpc.methods import services_of
from services.platform.rpc.seal import Seal
from services.platform.rpc.server import Server
from services.platform.runtime import Loop, Platform
from services.task.jobs import recovery as job_recovery
from services.task.jobs import rpc as jobs
from services.task.projects import rpc as projects
from services.task.reminders import recovery as reminder_recovery
from services.task.reminders import rpc as reminders
from services.task.suggestions import rpc as suggestions
from services.task.tasks import former_members as task_members
from services.task.tasks import rpc as tasks
from taskflow.auth.v1 import auth_service_pb2, auth_service_pb2_grpc

# Registers a feature's servicers and returns its background loops.
Register = Callable[[grpc.aio.Server, Platform], list[Loop]]

# The name of a process → its features.
_FEATURES: dict[str, tuple[Register, ...]] = {
    "auth": (
        accounts.register,
        sessions.register,
        # The removal of a member notes in its transaction what the other services have to do afterwards.
        partial(
            workspaces.register,
            removal=Removal(
                begin=(task_members.begin, inbox_members.begin),
                is_former=task_members.is_former,
                go_on=task_members.go_on,
            ),
        ),
    ),
    "task": (
        projects.register,
        tasks.register,
        suggestions.register,
        jobs.register,
        reminders.register,
    ),
    "notification": (inbox.register, email.register, dead_letters.register),
}


async def run_service(name: str, settings: Settings, stop: asyncio.Event) -> None:
    """Runs the auth, task or notification service until `stop` is set."""
    async with _database(settings, name) as db, _bus(settings, name) as bus:
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
        platform = Platform(settings, db, bus, Seal(settings), gate)
        loops = [bus.connect(), identity.keep_keys(), gate.streams.supervise(db)]
        for register in _FEATURES[name]:
            loops += register(server.grpc, platform)
        await run_background(loops, server.run(stop))


async def run_relay(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the relay until `stop` is set."""
    async with _database(settings, "relay") as db, _bus(settings, "relay") as bus:
        health = Health({}, _checks("relay", db, bus))
        relay = Relay(settings, db, bus, lambda tx: _begin_again(settings, tx))

        async def publish() -> None:
            await bus.connect()
            await relay.run()

        async with http_server(settings.host, settings.relay_http_port, probes(health.report)):
            await wait_until_current(db)
            deleting = retention.run(settings, db, platform_retention.kinds(settings))
            await run_background([publish(), backlog.run(db), health.run(), deleting], stop.wait())


async def grant_operator(settings: Settings, email: str) -> bool:
    """Lets a user see and replay dead letters, and prints the result. False when nobody has this e-mail."""
    async with _database(settings, "operator") as db, db.transaction() as tx:
        granted = await account_logic.grant_operator(tx, email)
    print(f"{email} is an operator now." if granted else f"Nobody is registered as {email}.")
    return granted


async def recover(settings: Settings) -> None:
    """Marks everything in the database that NATS and Temporal must get again, and prints how much will be repeated.

    For operators who restored a backup or lost Temporal's state. It doesn't check what NATS and Temporal still have, so
    events and workflows may repeat. It is one transaction, and running it twice does no harm.
    """
    async with _database(settings, "recovery") as db, db.transaction() as tx:
        print(await _begin_again(settings, tx))


@asynccontextmanager
async def _database(settings: Settings, application: str) -> AsyncIterator[Database]:
    """The process's pool. A pool that is connecting keeps the process from exiting, so it's always closed."""
    db = Database(settings, application=application)
    await db.open()
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def _bus(settings: Settings, name: str) -> AsyncIterator[Bus]:
    """The process's connection to NATS, closed in the end. A background loop connects it."""
    bus = Bus(settings, name=name)
    try:
        yield bus
    finally:
        await bus.close()


async def _begin_again(settings: Settings, tx: Transaction) -> str:
    """Makes the database the only truth for NATS, Temporal and streams. Returns what will be repeated."""
    events = await recovery.publish_again(tx)
    await stream_recovery.reset_streams(tx)
    mails = await email_recovery.release_mail(tx)
    reminded = await reminder_recovery.plan_again(tx, settings.reminder_offsets)
    started = await job_recovery.start_again(tx)
    return (
        f"To be published again: {events} events. To be planned again: reminders of {reminded} tasks. "
        f"To be started again: {started} jobs and {mails} mails. Streams will be reset."
    )


def _key_source(name: str, settings: Settings) -> KeySource:
    if name == "auth":
        return SigningKeys(settings).public_keys
    stub = auth_service_pb2_grpc.AuthServiceStub(internal_channel(settings, settings.auth))

    async def fetch() -> list[auth_service_pb2.SigningKey]:
        answer = await stub.GetSigningKeys(
            auth_service_pb2.GetSigningKeysRequest(), timeout=3, wait_for_ready=True
        )
        return list(answer.keys)

    return fetch


def _checks(name: str, db: Database, bus: Bus) -> dict[str, Check]:
    """Health checks of the dependencies that the process needs, by name.

    Services don't need NATS: their events wait in the outbox.
    """

    async def nats() -> None:
        if not bus.connected:
            raise ConnectionError("not connected to NATS")

    checks: dict[str, Check] = {"postgres": db.ping}
    if name == "relay":
        checks["nats"] = nats
    return checks
