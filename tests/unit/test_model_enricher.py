"""The model-backed enricher against an endpoint that fails, lies and follows injected instructions."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import unicodedata
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from services.platform.config import Settings
from services.platform.http.outbound import MAX_RESPONSE, guarded_client
from tests.fakes.model_enricher import KEY, PRIORITY, InThisProcess, enriching, with_reason
from tests.fakes.model_server import Reply, model_server, priority, suggestion
from workflows.enrichment.enrichers import (
    Enricher,
    EnrichRequest,
    InvalidModelOutput,
    Kind,
    ModelRefused,
    Proposal,
    RetryableModelError,
)
from workflows.enrichment.enrichers.circuit import FAILURES_TO_OPEN
from workflows.enrichment.enrichers.heuristic import HeuristicEnricher
from workflows.enrichment.enrichers.model import ModelEnricher, ModelSettings
from workflows.enrichment.enrichers.prompt import PROMPT_VERSION
from workflows.enrichment.registration import build_enricher
from workflows.enrichment.text_process import TextProcess
from workflows.sanitise import clean_text, cut, cut_bytes

DESCRIPTION: frozenset[Kind] = frozenset({"description"})
TASK = EnrichRequest("Fix the door", "It has to work today", kinds=PRIORITY)


def described(value: str, reason: str = "clearer", confidence: float = 0.7) -> Reply:
    return suggestion(description={"value": value, "reason": reason, "confidence": confidence})


async def test_a_suggestion_names_value_reason_confidence_model_and_prompt_version() -> None:
    async with enriching(texts=TextProcess(1.0)) as (enricher, server):
        server.replies = [priority("HIGH", 'says "today"', 0.8)]
        assert await enricher.suggest(TASK) == [
            Proposal("priority", "HIGH", 'says "today"', 0.8, "m-1", PROMPT_VERSION)
        ]


async def test_the_model_request_has_schema_temperature_token_limit_and_key() -> None:
    async with enriching(output_tokens=500) as (enricher, server):
        server.replies = [
            suggestion(
                priority={"value": "LOW", "reason": "calm", "confidence": 1},
                description={"value": "Better.", "reason": "clear", "confidence": 0.5},
            )
        ]
        request = EnrichRequest("Door", "fix", "2026-12-01 in Europe/Berlin", ("Old door",))
        proposals = await enricher.suggest(request)
    assert {proposal.kind for proposal in proposals} == {"priority", "description"}
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body["model"] == "m-1"
    assert sent.body["temperature"] == 0
    assert sent.body["max_tokens"] == 500
    form = sent.body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["required"] == ["priority", "description"]
    assert sent.task == {
        "title": "Door",
        "description": "fix",
        "deadline": "2026-12-01 in Europe/Berlin",
        "similar_titles": ["Old door"],
    }


async def test_openai_variables_in_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-other")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-other")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with enriching() as (enricher, server):
        await enricher.suggest(TASK)
    assert "other" not in json.dumps(server.requests[0].headers)


async def test_parameters_that_the_endpoint_rejects_are_left_out() -> None:
    async with enriching() as (enricher, server):
        server.rejects = {"response_format", "max_tokens", "temperature"}
        assert (await enricher.suggest(TASK))[0].value == "HIGH"
        assert len(server.requests) == 4
        last = server.requests[-1]
        assert last.body["max_completion_tokens"] > 0
        assert '"enum":["LOW","MEDIUM","HIGH","URGENT"]' in last.system
        await enricher.suggest(TASK)
        assert len(server.requests) == 5, "what was learned is kept"


async def test_an_answer_inside_a_code_fence_is_read() -> None:
    async with enriching() as (enricher, server):
        server.replies = [Reply(f"```json\n{priority('LOW').content}\n```")]
        assert (await enricher.suggest(TASK))[0].value == "LOW"


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(raw=b"[" * (MAX_RESPONSE + 1)), "too large"),
        (Reply(raw=gzip.compress(b" " * 9), headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
async def test_a_response_is_read_up_to_a_limit(reply: Reply, complaint: str) -> None:
    async with enriching() as (enricher, server):
        server.replies = [reply]
        with pytest.raises(ModelRefused, match=complaint):
            await enricher.suggest(TASK)
        assert server.requests[0].headers["accept-encoding"] == "identity"
        assert (await enricher.suggest(TASK))[0].value == "HIGH"


async def test_an_answer_with_an_unknown_key_is_refused_without_quoting_it() -> None:
    reply = suggestion(
        priority={"value": "LOW", "reason": "r", "confidence": 1, "planted-personal-text": 1}
    )
    async with enriching() as (enricher, server):
        server.replies = [reply, reply]
        with pytest.raises(InvalidModelOutput) as caught:
            await enricher.suggest(TASK)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_busy_and_broken_endpoints_are_retryable_and_not_retried_here(status: int) -> None:
    async with enriching() as (enricher, server):
        server.replies = [Reply(status=status)]
        with pytest.raises(RetryableModelError) as caught:
            await enricher.suggest(TASK)
        assert caught.value.retry_after is None
        assert len(server.requests) == 1


def _in(seconds: float) -> str:
    """An HTTP-date."""
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        (lambda: "7", 7, 7),
        (lambda: "0.5", 0.5, 0.5),
        (lambda: "-3", 0, 0),
        (lambda: "999999999", 3_600, 3_600),
        (lambda: "inf", 3_600, 3_600),
        (lambda: _in(600), 500, 600),
        (lambda: _in(-600), 0, 0),
    ],
    ids=["seconds", "fraction", "negative", "huge", "infinite", "date", "past date"],
)
async def test_retry_after_is_honoured_as_seconds_and_as_a_date(
    header: Callable[[], str], least: float, most: float
) -> None:
    value = header()
    async with enriching() as (enricher, server):
        for status in (429, 503):
            server.replies = [Reply(status=status, headers={"retry-after": value})]
            with pytest.raises(RetryableModelError) as caught:
                await enricher.suggest(TASK)
            assert caught.value.retry_after is not None
            assert least <= caught.value.retry_after <= most


@pytest.mark.parametrize("value", ["nan", "soon", "", "Tue, 99 Foo 2026"])
async def test_an_unreadable_retry_after_is_ignored(value: str) -> None:
    async with enriching() as (enricher, server):
        server.replies = [Reply(status=429, headers={"retry-after": value})]
        with pytest.raises(RetryableModelError) as caught:
            await enricher.suggest(TASK)
        assert caught.value.retry_after is None


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_other_http_refusals_are_not_retried(status: int) -> None:
    async with enriching() as (enricher, server):
        server.replies = [Reply(status=status)]
        with pytest.raises(ModelRefused, match=str(status)):
            await enricher.suggest(TASK)
        assert len(server.requests) == 1


async def test_a_bad_request_is_not_retried_once_no_parameter_is_left_to_drop() -> None:
    async with enriching() as (enricher, server):
        server.answer = lambda request: Reply(status=400)
        with pytest.raises(ModelRefused):
            await enricher.suggest(TASK)
        assert len(server.requests) == 2


@pytest.mark.parametrize("reply", [Reply(refusal="no"), Reply("", finish_reason="content_filter")])
async def test_a_model_refusal_is_not_retried(reply: Reply) -> None:
    async with enriching() as (enricher, server):
        server.replies = [reply]
        with pytest.raises(ModelRefused):
            await enricher.suggest(TASK)


async def test_slow_broken_and_unreachable_endpoints_are_retryable() -> None:
    async with enriching(timeout=0.2) as (enricher, server):
        server.replies = [Reply(delay=5)]
        started = time.perf_counter()
        with pytest.raises(RetryableModelError):
            await enricher.suggest(TASK)
        assert time.perf_counter() - started < 2
        server.replies = [Reply(hang_up=True)]
        with pytest.raises(RetryableModelError):
            await enricher.suggest(TASK)
    gone = ModelEnricher(
        ModelSettings(server.base_url, "m", allow_private=True), InThisProcess(1.0)
    )
    with pytest.raises(RetryableModelError):
        await gone.suggest(TASK)
    await gone.close()


async def test_the_time_budget_covers_the_correction_too() -> None:
    async with enriching(timeout=0.6) as (enricher, server):
        server.answer = lambda request: Reply("nonsense", delay=0.4)
        with pytest.raises(RetryableModelError):
            await enricher.suggest(TASK)
        assert len(server.requests) == 2


BAD_ANSWERS = [
    "",
    "The priority is HIGH.",
    "{}",
    "[]",
    "null",
    "[" * 100_000,
    '{"priority": null}',
    '{"priority": "HIGH"}',
    '{"priority": {"value": "HIGH"}}',
    with_reason(value="CRITICAL"),
    with_reason(value="high"),
    with_reason(value=["HIGH"]),
    with_reason(reason=7),
    with_reason(reason="  \u202e\u0000 "),
    with_reason(confidence=1.1),
    with_reason(confidence=-0.1),
    with_reason(confidence="0.5"),
    with_reason(confidence=float("nan")),
    with_reason(confidence=float("inf")),
    with_reason(action="delete"),
    '{"priority": {"value": "LOW", "reason": "r", "confidence": 1' + "0" * 5_000 + "}}",
    with_reason() + with_reason(),
    json.dumps({**json.loads(with_reason()), "tool": "delete"}),
    "x" * 300_000,
]


async def test_errors_in_an_answer_are_returned_from_the_child_process() -> None:
    async with enriching(texts=TextProcess(1.0)) as (enricher, server):
        server.replies = [Reply("no JSON"), priority("MEDIUM")]
        assert (await enricher.suggest(TASK))[0].value == "MEDIUM"
        assert "not one JSON object" in server.requests[1].body["messages"][-1]["content"]


@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
async def test_an_invalid_answer_is_corrected_once_in_the_same_conversation(bad: str) -> None:
    async with enriching() as (enricher, server):
        server.replies = [Reply(bad), priority("MEDIUM")]
        assert (await enricher.suggest(TASK))[0].value == "MEDIUM"
        first, second = server.requests
        assert second.body["messages"][:2] == first.body["messages"]
        assert [message["role"] for message in second.body["messages"][2:]] == ["assistant", "user"]

        server.replies = [Reply(bad), Reply(bad)]
        with pytest.raises(InvalidModelOutput):
            await enricher.suggest(TASK)
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>gateway</html>",
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":7}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"message":{"content":7}}]}',
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
async def test_a_response_body_that_is_not_a_completion_is_an_invalid_answer(
    raw: bytes, kind: str
) -> None:
    async with enriching() as (enricher, server):
        server.answer = lambda request: Reply(raw=raw, headers={"content-type": kind})
        with pytest.raises(InvalidModelOutput):
            await enricher.suggest(TASK)


async def test_answers_are_sanitised_and_capped() -> None:
    dirty = "a\0b\u202ec\ud800d\u0007e\u2066f\ufeffg\U000e0041h"
    request = EnrichRequest("Door", "fix", kinds=DESCRIPTION)
    async with enriching() as (enricher, server):
        server.replies = [described(f"{dirty} Cafe\u0301\r\nnext\tline", dirty + "\n" + "é" * 900)]
        [proposal] = await enricher.suggest(request)
        assert proposal.value == "abcdefgh Caf\u00e9\nnext\tline"
        assert proposal.reason.startswith("abcdefgh é")
        assert len(proposal.reason) == 500
        server.replies = [described("x" * 20_001), described("y" * 20_000)]
        [proposal] = await enricher.suggest(request)
        assert proposal.value == "y" * 20_000


async def test_an_unchanged_description_gives_no_suggestion() -> None:
    request = EnrichRequest("Door", "Fix the door.\n", kinds=DESCRIPTION)
    async with enriching() as (enricher, server):
        server.replies = [suggestion(description=None), described("Fix the door.")]
        assert await enricher.suggest(request) == []
        assert await enricher.suggest(request) == []
        assert len(server.requests) == 2


async def test_a_description_is_never_replaced_by_an_empty_one() -> None:
    request = EnrichRequest("Door", "Fix the door.", kinds=DESCRIPTION)
    async with enriching() as (enricher, server):
        server.answer = lambda request: described(" \u202e\0 ")
        with pytest.raises(InvalidModelOutput):
            await enricher.suggest(request)


async def test_a_long_description_is_truncated_between_characters_and_not_rewritten() -> None:
    text = "👩‍🌾é" * 3_000
    async with enriching() as (enricher, server):
        await enricher.suggest(EnrichRequest("Farm", text))
        shown = server.requests[0].task["description"]
        assert 17_900 <= len(shown.encode()) <= 18_000
        assert shown.endswith(("👩‍🌾", "é"))
        required = server.requests[0].body["response_format"]["json_schema"]["schema"]["required"]
        assert required == ["priority"]
        assert await enricher.suggest(EnrichRequest("Farm", text, kinds=DESCRIPTION)) == []
        assert len(server.requests) == 1, "nothing left to ask for"


async def test_errors_contain_neither_task_text_nor_api_key_nor_answer() -> None:
    planted = "planted-personal-text"
    echo = {"message": f"bad: {planted} {KEY}"}
    task = EnrichRequest(planted, planted, kinds=PRIORITY)
    replies = [Reply(status=status, error=echo) for status in (400, 401, 429, 500)]
    replies += [Reply(planted), Reply(refusal=planted), Reply(with_reason(value=planted))]
    async with enriching() as (enricher, server):
        for reply in replies:
            server.replies = [reply, reply]
            expected = (RetryableModelError, InvalidModelOutput, ModelRefused)
            with pytest.raises(expected) as caught:
                await enricher.suggest(task)
            assert planted not in repr(caught.value)
            assert KEY not in repr(caught.value)
            assert caught.value.__cause__ is None
    assert KEY not in repr(ModelSettings("https://m.example/v1", "m", KEY))


async def test_an_endpoint_that_keeps_failing_is_not_called_for_a_while() -> None:
    async with model_server() as server:
        server.answer = lambda request: Reply(status=500)
        enricher = ModelEnricher(
            ModelSettings(server.base_url, "m", allow_private=True), InThisProcess(1.0)
        )
        for _ in range(FAILURES_TO_OPEN + 3):
            with pytest.raises(RetryableModelError) as caught:
                await enricher.suggest(TASK)
        assert len(server.requests) == FAILURES_TO_OPEN
        assert caught.value.retry_after == pytest.approx(30, abs=2)
        await enricher.close()


async def test_a_checked_host_name_keeps_its_host_header_and_tries_each_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up = asyncio.get_running_loop().getaddrinfo

    async def resolve(host: str, port: Any, **more: Any) -> Any:
        if host != "model.example":
            return await looked_up(host, port, **more)
        # Nothing listens on the first address. Both count as public for this test only.
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr("services.platform.http.outbound.is_public", lambda address: True)
    async with model_server() as server, guarded_client(5) as client:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        url = f"http://model.example:{server.port}/v1/x"
        answer = await client.post(url, json={"a": 1})
        assert answer.status_code == 200
        assert server.requests[0].headers["host"] == f"model.example:{server.port}"
        assert server.requests[0].body == {"a": 1}


async def test_an_unresolvable_host_name_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[Any]:
        raise OSError("no such name")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    enricher = ModelEnricher(ModelSettings("https://model.example/v1", "m"), InThisProcess(1.0))
    with pytest.raises(RetryableModelError):
        await enricher.suggest(TASK)
    await enricher.close()


def test_configuration_picks_the_enricher() -> None:
    def enricher(base_url: str, model: str) -> Enricher:
        settings = Settings(ai_base_url=base_url, ai_model=model, ai_api_key=SecretStr("k"))
        return build_enricher(settings, InThisProcess(1.0))

    assert isinstance(build_enricher(Settings(), InThisProcess(1.0)), HeuristicEnricher)
    assert isinstance(enricher("", ""), HeuristicEnricher)
    assert isinstance(enricher("https://m.example/v1", "m"), ModelEnricher)
    for half in (("https://m.example/v1", ""), ("", "m"), ("ftp://m.example", "m"), ("m", "m")):
        with pytest.raises(ValueError, match=r"AI_MODEL|the model's base URL"):
            enricher(*half)


def test_truncation_never_splits_a_character() -> None:
    for text in ("e\u0301" * 50, "👩‍🌾" * 20, "✈️" * 30, "ab" * 40):
        for limit in range(12, 60):
            for shown in (cut(text, limit), cut_bytes(text, limit)):
                assert text.startswith(shown)
                rest = text[len(shown) :]
                assert shown
                assert not rest or not unicodedata.combining(rest[0])
                assert not rest.startswith(("\u200d", "\ufe0f"))
                assert not shown.endswith("\u200d")
    assert cut("\u0301" * 9, 5) == "\u0301" * 5


def test_clean_text_keeps_joiners_tabs_and_newlines() -> None:
    assert clean_text("👩‍🌾\tx\r\ny\u2028z") == "👩‍🌾\tx\ny\nz"


async def test_a_closed_enricher_calls_no_endpoint() -> None:
    async with enriching() as (enricher, _server):
        await enricher.close()
        with pytest.raises((RetryableModelError, RuntimeError, httpx2.HTTPError)):
            await enricher.suggest(TASK)
