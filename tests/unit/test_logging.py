"""Promises of the logs: one JSON object per line, the call it belongs to, and nothing secret or personal."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.platform.config import Settings
from services.platform.observe.redaction import _CREDENTIALS, Hide, describe

ROOT = Path(__file__).resolve().parents[2]
# Text that must not appear in any line.
PLANTED = "planted-7f3a9c"

_PREPARE = f"""
import asyncio, logging as standard, sys, warnings
import psycopg, structlog
from services.platform.observe import logging
from services.platform.config import Settings

PLANTED = {PLANTED!r}
settings = Settings(
    log_format=sys.argv[1],
    log_level="debug",
    token_secret="token-secret-" + PLANTED,
    service_secret='service "secret" ' + PLANTED,
    database_url=f"postgresql://taskflow:{{PLANTED}}@db.example/taskflow",
    smtp_username="taskflow",
    smtp_password="smtp-" + PLANTED,
    ai_api_key="sk-" + PLANTED,
)
logging.configure(settings, "test")
log = structlog.get_logger()

def violated():
    raise psycopg.errors.UniqueViolation(
        "duplicate key value\\nDETAIL:  Key (email)=(" + PLANTED + ") already exists."
    )
"""


def _said(script: str, log_format: str = "json", code: int = 0) -> str:
    """The log output of a process that runs this script."""
    ended = subprocess.run(
        [sys.executable, "-c", _PREPARE + textwrap.dedent(script), log_format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr


def _lines(script: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _said(script, code=code).splitlines()]


def test_a_log_line_is_one_json_object_with_time_event_and_origin() -> None:
    (line,) = _lines("log.info('dependency', name='postgres', state='ok\\nor not')")
    assert list(line)[:4] == ["timestamp", "level", "event", "process"]
    assert line["timestamp"].endswith("Z")
    assert line["level"] == "info"
    assert line["event"] == "dependency"
    assert line["process"] == "test"
    assert line["state"] == "ok\nor not"


def test_clients_that_disconnect_before_their_answer_log_no_errors() -> None:
    (line,) = _lines(
        """
        grpcs = standard.getLogger("grpc._cython.cygrpc")
        grpcs.error("ExecuteBatchError raised in core by servicer method [%s]", "/a.B/C")
        grpcs.error("Unexpected [%s] raised by servicer method [%s]", "X", "/a.B/C")
        """
    )
    assert line["event"].startswith("Unexpected")


def test_library_log_lines_have_our_format_from_warning_up() -> None:
    lines = _lines(
        """
        for name in ("nats.aio.client", "temporalio.worker", "grpc"):
            standard.getLogger(name).info("not worth it")
            standard.getLogger(name).warning("slow: %s", "consumer")
        warnings.warn("deprecated")
        """
    )
    assert [line["logger"] for line in lines] == [
        "nats.aio.client",
        "temporalio.worker",
        "grpc",
        "py.warnings",
    ]
    assert {line["level"] for line in lines} == {"warning"}
    assert lines[0]["event"] == "slow: consumer"
    assert lines[0]["process"] == "test"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_logged_exception_has_its_type_and_place_without_its_text(log_format: str) -> None:
    said = _said(
        """
        def handler():
            try:
                violated()
            except psycopg.Error as error:
                secret = PLANTED
                raise RuntimeError(f"cannot store {PLANTED}") from error

        for write in (log.exception, standard.getLogger("library").exception):
            try:
                handler()
            except RuntimeError as error:
                write("unforeseen error")
                log.warning("again", exc_info=error, error=error)
                standard.getLogger("library").warning("failed with %s", error)
        """,
        log_format,
    )
    assert PLANTED not in said
    assert "RuntimeError" in said
    assert "UniqueViolation 23505" in said
    assert "in violated" in said
    assert "duplicate key" not in said


def test_the_exception_of_an_unawaited_task_is_logged_without_its_text() -> None:
    lines = _lines(
        """
        async def main():
            async def lost():
                violated()
            task = asyncio.create_task(lost())
            await asyncio.sleep(0)
            del task
        asyncio.run(main())
        """
    )
    assert PLANTED not in json.dumps(lines)
    assert lines[0]["event"] == "Task exception was never retrieved"
    assert lines[0]["exception"][0]["kind"] == "UniqueViolation 23505"


def test_the_exception_that_ends_the_process_is_logged_too() -> None:
    (line,) = _lines("violated()", code=1)
    assert PLANTED not in json.dumps(line)
    assert (line["level"], line["event"]) == ("critical", "the process ends")
    assert line["exception"][0]["kind"] == "UniqueViolation 23505"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_in_a_log_line_are_redacted(log_format: str) -> None:
    said = _said(
        """
        token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ" + PLANTED + "In0.c2ln" + PLANTED
        log.info("settings", settings=settings, all=settings.model_dump())
        log.info(settings.postgres, nats=f"nats://someone:{PLANTED}@nats.example:4222")
        log.info(settings.token_secret.get_secret_value())
        log.info("service", it=settings.service_secret.get_secret_value())
        log.info("login", header=f"Bearer {token}")
        log.info("smtp", sent=["AUTH", settings.smtp_password.get_secret_value()])
        standard.getLogger("library").warning("key %s", settings.ai_api_key.get_secret_value())
        """,
        log_format,
    )
    assert PLANTED not in said
    assert len(said.splitlines()) == 7
    assert "nats.example" in said


def test_messages_and_rows_are_logged_by_type_only() -> None:
    (line,) = _lines(
        """
        from taskflow.task.v1.task_pb2 import Task
        class Row:
            def __repr__(self): return PLANTED
        log.info("stored", task=Task(title=PLANTED), row=Row(), many=[Task(title=PLANTED)])
        """
    )
    assert (line["task"], line["row"], line["many"]) == ("<Task>", "<Row>", ["<Task>"])


def test_each_call_logs_one_line_whose_id_is_the_reference_in_its_error() -> None:
    lines = _lines(
        """
        import grpc.aio
        from google.rpc import error_details_pb2, status_pb2
        from services.platform.rpc.identity import Identity
        from services.platform.rpc.gate import Gate
        from taskflow.auth.v1 import auth_service_pb2 as pb, auth_service_pb2_grpc as rpc

        class Auth(rpc.AuthServiceServicer):
            async def GetSigningKeys(self, request, context):
                return pb.GetSigningKeysResponse()
            async def Login(self, request, context):
                violated()

        async def main():
            async def keys(): return []
            server = grpc.aio.server(interceptors=[Gate(settings, Identity(settings, keys))])
            rpc.add_AuthServiceServicer_to_server(Auth(), server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = rpc.AuthServiceStub(channel)
                await stub.GetSigningKeys(
                    pb.GetSigningKeysRequest(), metadata=(("x-request-id", "from-envoy"),)
                )
                await stub.GetSigningKeys(
                    pb.GetSigningKeysRequest(), metadata=(("x-request-id", "not\\x20good;" * 99),)
                )
                try:
                    await stub.Login(pb.LoginRequest())
                except grpc.aio.AioRpcError:
                    pass
                try:
                    await stub.Login(pb.LoginRequest(email="a@b.example", password="x" * 12))
                except grpc.aio.AioRpcError as error:
                    sent = dict(error.trailing_metadata())["grpc-status-details-bin"]
                    info = error_details_pb2.ErrorInfo()
                    status_pb2.Status.FromString(sent).details[0].Unpack(info)
                    log.info("told", reference=info.metadata["reference"], text=error.details())
            await server.stop(0)
        asyncio.run(main())
        """
    )
    assert PLANTED not in json.dumps(lines)
    calls = [line for line in lines if line["event"] == "call"]
    assert [(line["method"].rpartition("/")[2], line["code"], line["level"]) for line in calls] == [
        ("GetSigningKeys", "OK", "debug"),
        ("GetSigningKeys", "OK", "debug"),
        ("Login", "INVALID_ARGUMENT", "info"),
        ("Login", "INTERNAL", "info"),
    ]
    assert all(line["milliseconds"] >= 0 for line in calls)
    assert calls[0]["request_id"] == "from-envoy"
    assert len({line["request_id"] for line in calls}) == 4
    assert "good" not in calls[1]["request_id"]
    (error,) = (line for line in lines if line["level"] == "error")
    assert error["exception"][0]["kind"] == "UniqueViolation 23505"
    (told,) = (line for line in lines if line["event"] == "told")
    assert told["reference"] == error["reference"] == error["request_id"] == calls[3]["request_id"]
    # The client's own log lines belong to no call.
    assert "request_id" not in told


def test_a_logged_exception_has_its_sqlstate_os_error_or_source_line() -> None:
    assert describe(psycopg.errors.UniqueViolation(PLANTED)) == "UniqueViolation 23505"
    assert describe(KeyError(PLANTED)) == "KeyError"
    assert describe(ConnectionRefusedError(111, "refused")).startswith("ConnectionRefusedError: ")
    with pytest.raises(ValueError, match=PLANTED) as caught:
        int(PLANTED)
    assert describe(caught.value).startswith("ValueError at tests/unit/test_logging.py:")


def test_a_token_is_hidden_and_the_letters_before_it_stay() -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    hide = Hide(Settings(token_secret="a-secret-of-20-letters", service_secret="another-secret"))
    for before in ("", "\\n", "token_", "a.b.c.", "eyJ."):
        assert hide(None, "", f"{before}{token} end") == f"{before}[hidden] end"
    assert hide(None, "", f"a-secret-of-20-letters{token}") == "[hidden][hidden]"
    assert hide(None, "", "postgresql://u:pass@host") == "postgresql://[hidden]@host"


def test_a_long_line_is_searched_for_credentials_in_less_than_100_ms() -> None:
    for text in (
        "://" + ":" * 20_000,
        "://" + "a:" * 10_000,
        "eyJ" + "a" * 20_000,
        "eyJ" * 40_000,
        "eyJaaaaaaaa." + "eyJ" * 40_000,
        "a-" * 60_000,
    ):
        begin = time.thread_time()
        assert _CREDENTIALS.sub("", text) == text
        assert time.thread_time() - begin < 0.1
