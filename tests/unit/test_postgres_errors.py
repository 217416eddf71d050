"""Postgres failures: temporary ones are UNAVAILABLE; only rejected statements are retried."""

import grpc
import psycopg
import psycopg_pool
import pytest

from services.platform.rpc.errors import DomainError, is_conflict, is_rejected, public
from taskflow.error.v1 import error_reason_pb2 as reasons


def failure(sqlstate: str) -> psycopg.Error:
    error = psycopg.errors.lookup(sqlstate)("its text can hold values")
    assert error.sqlstate == sqlstate
    return error


LOST = [
    psycopg.OperationalError("the connection is closed"),
    psycopg.DatabaseError("server closed the connection unexpectedly"),
    psycopg_pool.PoolTimeout("couldn't get a connection"),
    psycopg_pool.PoolClosed("the pool is closed"),
]


@pytest.mark.parametrize(
    "sqlstate",
    [
        *("08000", "08003", "08006", "08P01"),
        *("57P01", "57P02", "57P03", "57P05", "57014"),
        *("53000", "53100", "53200", "53300"),
        *("40001", "40P01", "55P03"),
        *("25006", "25P03", "25P04"),
    ],
)
def test_statements_ended_by_a_crash_or_failover_are_unavailable(sqlstate: str) -> None:
    told = public(failure(sqlstate))
    assert told.code is grpc.StatusCode.UNAVAILABLE
    assert told.reason == reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE
    assert told.retry_after


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_lost_connection_is_unavailable_and_its_effect_is_unknown(error: Exception) -> None:
    assert public(error).code is grpc.StatusCode.UNAVAILABLE
    assert not is_rejected(error)
    assert not is_conflict(error)


@pytest.mark.parametrize("sqlstate", ["22001", "23503", "23514", "42P01", "54000", "XX000"])
def test_our_own_sql_errors_are_not_reported_as_unavailable(sqlstate: str) -> None:
    assert public(failure(sqlstate)).code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    "sqlstate", ["21000", "22P05", "23503", "23505", "40P01", "54000", "57014"]
)
def test_a_rejected_statement_counts_as_without_effect(sqlstate: str) -> None:
    assert is_rejected(failure(sqlstate))


@pytest.mark.parametrize("sqlstate", ["08006", "53100", "57P01", "57P02", "57P03", "XX000"])
def test_the_effect_of_a_statement_is_unknown_if_the_server_crashed(sqlstate: str) -> None:
    assert not is_rejected(failure(sqlstate))


def test_only_a_conflict_with_another_transaction_is_retried() -> None:
    assert all(is_conflict(failure(state)) for state in ("23505", "40001", "40P01"))
    assert not any(is_conflict(failure(state)) for state in ("22001", "23514", "57014", "08006"))
    assert not is_conflict(DomainError(reasons.ERROR_REASON_DEPENDENCY_UNAVAILABLE))
