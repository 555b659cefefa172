"""The sampler over HTTP, on a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
import uvicorn

from sampler.admission.admission import Bounds
from sampler.app import create_app
from wire.process.tokens import Tokens
from wire.sampling import GenerateEvent, PromptScores

TOKEN = "a sampler's secret"
PROMPT = [31, 32, 33]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nothing signals these)
            await asyncio.sleep(0.005)


async def serve(app) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    task = asyncio.ensure_future(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def narrow(open_backend):
    """A backend for one request at a time: whoever does not leave is noticed."""
    return open_backend(max_running=1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(narrow) -> AsyncIterator[httpx.AsyncClient]:
    async for url in serve(create_app(narrow, Tokens(TOKEN))):
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            yield client


def body(**params) -> dict:
    return {"adapter": "base", "prompt_token_ids": PROMPT, "params": params}


ENDLESS = body(ignore_eos=True)


async def generate(client: httpx.AsyncClient, **params) -> list[GenerateEvent]:
    answer = await client.post("/generate", json=body(**params))
    assert answer.status_code == 200, answer.text
    return [GenerateEvent.model_validate_json(line) for line in answer.text.splitlines()]


async def test_health_needs_no_token(client):
    answer = await client.get("/healthz", headers={"Authorization": ""})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_health_is_not_well_while_the_engine_is_dead_or_stands_still(open_backend):
    backend = open_backend()
    async for url in serve(create_app(backend, Tokens(TOKEN))):
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/healthz")).status_code == 200
            backend._engine._step_began_at = time.monotonic() - 1e4
            stalled = await client.get("/healthz")
            assert (stalled.status_code, stalled.json()["status"][:31]) == (503, "the engine has been in one step")
            backend._engine._step_began_at = None
            await backend.close()
            dead = await client.get("/healthz")
            assert (dead.status_code, dead.json()) == (503, {"status": "the engine has ended"})


async def test_a_prompt_is_scored_over_http(client):
    asked = {"adapter": "base", "prompt_token_ids": PROMPT, "top_logprobs": 2, "targets": [[5, -1], [6, 7]]}
    scores = PromptScores.model_validate((await client.post("/score", json=asked)).json())
    assert [len(scores.logprobs), len(scores.top_ids), len(scores.top_ids[0])] == [2, 2, 2]
    assert scores.targets is not None
    assert [[value is None for value in row] for row in scores.targets] == [[False, True], [False, False]]
    refused = await client.post("/score", json={**asked, "adapter": "hw-nobody"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("route", ["/render", "/tokenize", "/generate", "/score", "/no-such-route"])
@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong", TOKEN, "bearer " + TOKEN])
async def test_everything_else_does(client, route, authorization):
    answer = await client.post(route, content=b"not even json", headers={"Authorization": authorization})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_no_route_reads_a_byte_of_a_body_before_the_token(narrow):
    app = create_app(narrow, Tokens(TOKEN))
    routes = [(route.path, method) for route in app.routes for method in route.methods]
    assert len(routes) > 4

    async def receive():
        raise AssertionError("the body is read before the token is looked at")

    for path, method in [*routes, ("/no-such-route", "POST")]:
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
        await app({**scope, "raw_path": path.encode(), "root_path": "", "scheme": "http"}, receive, send)
        assert sent[0]["status"] == (200 if path == "/healthz" else 401), path


def test_an_empty_token_is_refused(backend):
    with pytest.raises(ValueError, match="token"):
        create_app(backend, Tokens())


async def test_text_and_chats_become_ids(client, tokenizer):
    answer = await client.post("/tokenize", json={"text": "us"})
    assert answer.json() == {"token_ids": [256]}
    answer = await client.post("/render", json={"messages": [{"role": "user", "content": "hi"}]})
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert answer.json() == {"token_ids": tokenizer.encode(expected)}


CALL = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'


@pytest.mark.parametrize("tools", [[], [{"type": "function"}]])
async def test_whole_answers_are_read(client, backend, tools):
    constraint = {"choice": [CALL]}
    request = body(max_tokens=200, temperature=0.0) | {"whole": True, "reading": {"tools": tools}}
    request["params"] |= {"constraint": constraint}
    [line] = (await client.post("/generate", json=request)).text.splitlines()
    event = json.loads(line)
    assert (event["text"], event["deltas"]) == (CALL, [])
    calls = [{"name": "add", "arguments": "{}"}] if tools else []
    content = None if tools else CALL
    assert event["message"] == {"content": content, "reasoning_content": None, "tool_calls": calls}


async def test_events_come_as_lines_and_are_what_the_backend_says(client, narrow, ask_on):
    events = await generate(client, seed=1, max_tokens=20, top_logprobs=2)
    expected = await ask_on(narrow, PROMPT, seed=1, max_tokens=20, top_logprobs=2)
    assert [token_id for event in events for token_id in event.tokens.ids] == expected.ids
    assert [logprob for event in events for logprob in event.tokens.logprobs] == expected.logprobs
    assert [tops for event in events for tops in event.tokens.top_logprobs] == expected.tokens.top_logprobs
    assert "".join(event.text for event in events) == expected.text
    assert [event.finish_reason for event in events][-1] == expected.finish_reason


async def test_an_answer_is_told_in_one_event_where_nobody_reads_along(client):
    request = body(max_tokens=5, temperature=0.0, ignore_eos=True)
    lines = [json.loads(line) for line in (await client.post("/generate", json=request)).text.splitlines()]
    [whole] = [
        json.loads(x) for x in (await client.post("/generate", json={**request, "whole": True})).text.splitlines()
    ]
    for column in ("ids", "texts", "logprobs"):
        assert whole["tokens"][column] == [value for line in lines for value in line["tokens"][column]]
    assert whole["text"] == "".join(line["text"] for line in lines)
    assert whole["finish_reason"] == lines[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_chat_is_rendered_and_answered_in_one_call(client, whole):
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    ids = (await client.post("/render", json=chat)).json()["token_ids"]
    request = body(max_tokens=5, temperature=0.0, ignore_eos=True) | {"whole": whole}
    events = []
    for prompt in ({"prompt_token_ids": ids}, {"prompt_token_ids": [], "chat": chat}):
        answer = await client.post("/generate", json=request | prompt)
        events.append([GenerateEvent.model_validate_json(line) for line in answer.text.splitlines()])
    rendered = [event.prompt_token_ids for event in events[1]]
    assert rendered == [ids] + [None] * (len(rendered) - 1)
    assert {event.prompt_token_ids for event in events[0]} == {None}
    for column in ("ids", "texts", "logprobs"):  # how many tokens come in one event depends on who is faster
        first, second = ([x for event in answer for x in getattr(event.tokens, column)] for answer in events)
        assert first == second
    refused = await client.post("/generate", json=request | {"chat": {"messages": []}})
    assert refused.status_code == 422, refused.text


async def test_who_hangs_up_on_an_answer_in_one_event_makes_room(client, narrow):
    endless = {**body(max_tokens=10_000, ignore_eos=True), "whole": True}
    waiting = asyncio.ensure_future(client.post("/generate", json=endless))
    await asyncio.sleep(0.2)
    waiting.cancel()
    assert (await client.post("/generate", json=body(max_tokens=1))).status_code == 200


async def test_tokens_arrive_while_others_are_still_to_come(client):
    async with client.stream("POST", "/generate", json=ENDLESS) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        first = await anext(answer.aiter_lines())
    assert GenerateEvent.model_validate_json(first).finish_reason is None


@pytest.mark.parametrize(
    ("route", "wrong", "status", "code"),
    [
        ("/generate", {**ENDLESS, "adapter": "hw-nobody"}, 404, "not_found"),
        ("/generate", {**ENDLESS, "prompt_token_ids": []}, 422, "invalid_request"),
        ("/generate", body(temperature=-1), 422, "invalid_request"),
        ("/generate", body(repetition_penalty=2), 422, "invalid_request"),
        ("/render", {"messages": [{"role": "critic"}]}, 422, "invalid_request"),
    ],
)
async def test_errors_before_the_first_token_keep_their_status(client, route, wrong, status, code):
    answer = await client.post(route, json=wrong)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]


async def test_a_body_that_is_no_json_is_refused(client):
    answer = await client.post("/render", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_client_that_hangs_up_in_the_middle_makes_room(client):
    for _ in range(5):
        async with client.stream("POST", "/generate", json=ENDLESS) as answer:
            await anext(answer.aiter_lines())
    assert await asyncio.wait_for(generate(client, max_tokens=1), 2)


async def test_a_client_that_hangs_up_before_its_first_token_is_noticed(client, narrow, monkeypatch):
    submitted, step_may_end = [], threading.Event()
    submit, forward = narrow._engine.submit, narrow._engine._model.forward
    monkeypatch.setattr(narrow._engine, "submit", lambda sequence: (submitted.append(sequence), submit(sequence)))
    monkeypatch.setattr(narrow._engine._model, "forward", lambda *a, **k: (step_may_end.wait(30), forward(*a, **k))[1])
    asking = asyncio.ensure_future(client.post("/generate", json=ENDLESS))
    await until(lambda: submitted)
    asking.cancel()
    await until(lambda: submitted[0].cancelled)
    step_may_end.set()
    assert await generate(client, max_tokens=1)


async def test_a_backend_that_cannot_constrain_says_so(client, narrow, monkeypatch):
    asked = body(constraint={"regex": "[0-9]"}, max_tokens=5)
    assert (await client.post("/generate", json=asked)).status_code == 200
    monkeypatch.setattr(narrow, "_info", replace(narrow.info, constrains=False))
    answer = await client.post("/generate", json=asked)
    assert answer.status_code == 422
    assert "LocalBackend does not constrain what the policy writes" in answer.json()["message"]


async def test_a_constraint_that_makes_no_sense_is_refused_before_the_first_token(client):
    answer = await client.post("/generate", json=body(constraint={"regex": "("}))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_deltas_come_with_the_tokens_when_they_are_asked_for(client):
    asked = {**body(max_tokens=12, seed=1, ignore_eos=True), "reading": {}}
    lines = (await client.post("/generate", json=asked)).text.splitlines()
    events = [GenerateEvent.model_validate_json(line) for line in lines]
    told = "".join(delta.content or "" for event in events for delta in event.deltas)
    assert told == "".join(event.text for event in events) != ""
    whole = (await client.post("/generate", json={**asked, "whole": True})).text
    assert GenerateEvent.model_validate_json(whole).message.content == told


async def test_a_scraper_reads_what_was_sampled_and_nothing_else(narrow):
    async for url in serve(create_app(narrow, Tokens(TOKEN), metrics_tokens=Tokens("scrape"))):
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/metrics")).status_code == 401
            scraper, gateway = ({"Authorization": f"Bearer {token}"} for token in ("scrape", TOKEN))
            assert (await http.post("/generate", json=body(max_tokens=3), headers=scraper)).status_code == 401
            sampled = await http.post("/generate", json=body(max_tokens=3, ignore_eos=True), headers=gateway)
            assert sampled.status_code == 200
            page = (await http.get("/metrics", headers=scraper)).text
            assert (await http.get("/metrics", headers=gateway)).status_code == 200
    assert 'headway_sampler_tokens_total{direction="prompt"} 3.0' in page
    assert 'headway_sampler_tokens_total{direction="sampled"} 3.0' in page
    assert 'headway_sampler_call_seconds_count{call="generate",status="200"} 1.0' in page
    assert "headway_sampler_running 0.0" in page


@pytest.fixture
def bounded(narrow):
    """A client of the sampler within these bounds."""

    async def serve_within(**bounds) -> AsyncIterator[httpx.AsyncClient]:
        async for url in serve(create_app(narrow, Tokens(TOKEN), bounds=Bounds(**bounds))):
            async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                yield client

    return serve_within


async def test_bodies_that_no_prompt_could_need_are_refused_by_their_length(client):
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {10**9}\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.readuntil(b"}")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"context_length_exceeded" in answer


async def test_no_more_requests_are_taken_than_a_sampler_may_have(bounded):
    async for client in bounded(max_requests=1):
        async with client.stream("POST", "/generate", json=ENDLESS) as answer:
            await anext(answer.aiter_lines())
            refused = await client.post("/generate", json=ENDLESS)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_busy")
            assert refused.headers["retry-after"] == "1"
        async with asyncio.timeout(20):
            while (await client.post("/generate", json=body(max_tokens=1))).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_no_more_bytes_are_taken_than_a_sampler_may_have(bounded):
    async for client in bounded(max_bytes=100):
        answer = await client.post("/generate", json=body(max_tokens=1, stop=["x" * 100]))
        assert (answer.status_code, answer.json()["code"]) == (429, "too_busy")


async def test_a_body_that_does_not_come_is_not_waited_for(bounded):
    async for client in bounded(stalled_s=0.2):

        async def half() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(1)

        with pytest.raises(httpx.HTTPError):
            (await client.post("/generate", content=half())).raise_for_status()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing may wait for a collection."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_a_reader_who_takes_nothing_ends_its_sequence(bounded, narrow, monkeypatch):
    submitted = []
    submit = narrow._engine.submit
    monkeypatch.setattr(narrow._engine, "submit", lambda sequence: (submitted.append(sequence), submit(sequence)))
    monkeypatch.setattr("sampler.app._line", lambda event: event.model_dump_json().encode() + b" " * 1_000_000 + b"\n")
    async for client in bounded(stalled_s=0.3):
        async with client.stream("POST", "/generate", json=ENDLESS) as answer:
            assert answer.status_code == 200
            await until(lambda: submitted[0].cancelled)
            assert submitted[0].num_new < 510, "it ended because it was left, not because it was done"


async def test_tools_that_are_too_many_are_refused_before_anything_is_built(client):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    answer = await client.post("/generate", json=body(constraint={"calls": {"tools": [tool] * 5000}}))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
