"""The gateway through the official OpenAI client."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.e2e.box import Box
from tests.e2e.rollouts import chat, group, step

USER = [{"role": "user", "content": "12+30=?"}]


@pytest.fixture(scope="module")
def client(box: Box) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{box.url}/v1", api_key=box.env["HUD_API_KEY"], max_retries=0)


def test_a_chat_completion_has_ids_and_logprobs_of_equal_length(client: openai.OpenAI):
    extra: Any = {"return_token_ids": True}
    reply = client.chat.completions.create(
        model="tiny-arith", messages=USER, logprobs=True, top_logprobs=2, extra_body=extra
    )
    choice = reply.choices[0]
    ids = choice.model_extra["token_ids"]
    assert len(ids) == len(choice.logprobs.content) == reply.usage.completion_tokens
    assert len(choice.model_extra["prompt_token_ids"]) == reply.usage.prompt_tokens
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in choice.logprobs.content)


def test_n_choices_with_a_seed_repeat_and_differ(client: openai.OpenAI):
    def sample(seed: int) -> list[str | None]:
        reply = client.chat.completions.create(model="tiny-arith", messages=USER, n=8, seed=seed, max_tokens=8)
        assert [c.index for c in reply.choices] == list(range(8))
        return [c.message.content for c in reply.choices]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert len(set(sample(1))) > 1


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI):
    whole = client.chat.completions.create(model="tiny-arith", messages=USER, temperature=0, max_tokens=8)
    chunks = list(
        client.chat.completions.create(
            model="tiny-arith",
            messages=USER,
            temperature=0,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_text_completions_take_strings_and_ids(client: openai.OpenAI):
    by_text = client.completions.create(model="tiny-arith", prompt="12+30=", temperature=0, max_tokens=4)
    assert by_text.usage.completion_tokens > 0
    by_ids = client.completions.create(model="tiny-arith", prompt=[5, 6, 7], temperature=0, max_tokens=4, logprobs=1)
    assert by_ids.usage.prompt_tokens == 3


def test_models_are_listed(client: openai.OpenAI):
    assert "tiny-arith" in [m.id for m in client.models.list()]


def test_an_unknown_model_and_a_wrong_key_are_told_apart(box: Box, client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=USER)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="hw_wrong").chat.completions.create(model="tiny-arith", messages=USER)


def test_promotions_drop_nothing_in_flight(box: Box):
    """Eight clients sample without pause through six promotions; every answer is whole and names a checkpoint."""
    model_id = box.fork("in-flight")
    batch = group(box, "in-flight", "12+30=?")
    stop = False

    def keep_sampling(_: int) -> list[Any]:
        seen = []
        while not stop:
            reply = chat(box, "in-flight", max_tokens=32, stop=["\x00"])
            assert reply["choices"][0]["finish_reason"] in ("stop", "length")
            seen.append(reply["checkpoint"] and reply["checkpoint"]["id"])
        return seen

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_sampling, i) for i in range(8)]
        try:
            committed = [step(box, model_id, batch)["checkpoint_id"] for _ in range(6)]
        finally:
            stop = True
        seen = [c.result() for c in clients]
    assert {s for one in seen for s in one} <= {None, *committed}
    for one in seen:
        order = [-1 if s is None else committed.index(s) for s in one]
        assert order == sorted(order), "no client ever went back to older weights"


def test_an_idle_connection_outlives_what_clients_keep(box: Box):
    """httpx uses a connection again for up to 5 s; if the server ended it just then, that request would be lost."""
    connection = http.client.HTTPConnection(urlsplit(box.url).netloc, timeout=60)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    kept = connection.sock
    time.sleep(6)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock is kept
    connection.close()
