"""Requests join, leave, wait and come back; ends and refusals."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wire.errors import ContextLengthExceeded, InvalidRequest, NotFound, Unavailable
from wire.sampling import GenerateRequest, SamplingParams, TokenizeRequest

PROMPT = [11, 12, 13, 14, 15, 16]


async def test_rollouts_of_one_prompt_are_each_as_if_alone(ask):
    alone = [await ask(PROMPT, adapter="all-targets", seed=seed, max_tokens=30) for seed in range(8)]
    together = await asyncio.gather(
        *(ask(PROMPT, adapter="all-targets", seed=seed, max_tokens=30) for seed in range(8))
    )
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-6)


async def test_a_late_rollout_shares_a_prompt_that_is_already_computed(ask):
    expected = await ask(PROMPT, seed=5, max_tokens=20)
    early = asyncio.ensure_future(ask(PROMPT, max_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.03)
    late, single = await asyncio.gather(ask(PROMPT, seed=5, max_tokens=20), ask(PROMPT[:1], seed=5, max_tokens=5))
    assert not early.done()
    assert late.ids == expected.ids
    assert single.ids == (await ask(PROMPT[:1], seed=5, max_tokens=5)).ids
    await early


async def test_a_cache_too_small_for_all_makes_them_take_turns_and_changes_nothing(open_backend, ask_on, ask):
    small = open_backend(kv_cache_tokens=400)
    requests = [
        {"prompt": [n] * (3 + 7 * n), "adapter": name, "seed": n, "max_tokens": 90, "ignore_eos": True}
        for n, name in enumerate(["base", "all-targets", "attention-only"] * 3)
    ]
    crowded = await asyncio.gather(*(ask_on(small, **request) for request in requests))
    roomy = [await ask(**request) for request in requests]
    assert [answer.ids for answer in crowded] == [answer.ids for answer in roomy]


async def test_a_prompt_may_fill_the_context_but_for_one_token(open_backend, ask_on, ask):
    small = open_backend(kv_cache_tokens=64)
    assert small.info.context_length == 64
    answer = await ask_on(small, [1] * 63)
    assert (len(answer.ids), answer.finish_reason) == (1, "length")
    cut = await ask_on(small, [1] * 60, max_tokens=5, ignore_eos=True)
    assert (len(cut.ids), cut.finish_reason) == (4, "length")
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 64 tokens. However, the prompt has 64"):
        await ask_on(small, [1] * 64)
    for params in ({"min_tokens": 5}, {"min_tokens": 5, "max_tokens": 9}, {"min_tokens": 5, "max_tokens": 4}):
        with pytest.raises(InvalidRequest, match="min_tokens is 5, more than the 4 tokens that may be sampled"):
            await ask_on(small, [1] * 60, **params)


async def test_without_max_tokens_an_answer_ends_at_the_context(ask):
    answer = await ask(PROMPT, ignore_eos=True)
    assert len(PROMPT) + len(answer.ids) == 512
    assert answer.finish_reason == "length"


async def test_eos_ends_an_answer_and_is_its_last_token(ask, tokenizer):
    answers = await asyncio.gather(*(ask(PROMPT, seed=seed, temperature=1.5) for seed in range(4)))
    stopped = [answer for answer in answers if answer.finish_reason == "stop"]
    assert stopped
    for answer in stopped:
        assert answer.ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in answer.ids[:-1]
        assert answer.tokens.texts[-1] == "<|im_end|>"
        assert "<|im_end|>" not in answer.text


async def test_min_tokens_keep_an_answer_from_ending(ask, tokenizer):
    short = await ask(PROMPT, temperature=1.5, seed=0)
    longer = await ask(PROMPT, temperature=1.5, seed=0, min_tokens=len(short.ids) + 10)
    assert tokenizer.eos_token_id not in longer.ids[: len(short.ids) + 10]


async def test_a_stop_token_is_kept_as_an_id_and_left_out_of_the_text(ask):
    free = await ask(PROMPT, seed=1, max_tokens=30, ignore_eos=True)
    stop_id = free.ids[12]
    answer = await ask(PROMPT, seed=1, max_tokens=30, ignore_eos=True, stop_token_ids=[stop_id])
    assert answer.ids == free.ids[: free.ids.index(stop_id) + 1]
    assert answer.finish_reason == "stop"
    assert free.text.startswith(answer.text)


async def test_a_cancelled_request_frees_its_place(open_backend, ask_on):
    backend = open_backend(max_running=1)
    endless = GenerateRequest(adapter="base", prompt_token_ids=PROMPT, params=SamplingParams(ignore_eos=True))
    events = backend.generate(endless)
    await anext(events)
    waiting = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=3, ignore_eos=True))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await events.aclose()
    assert len((await asyncio.wait_for(waiting, 5)).ids) == 3


async def test_a_request_cancelled_while_it_waits_never_runs(open_backend, ask_on):
    backend = open_backend(max_running=1)
    first = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=200, ignore_eos=True))
    second = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.02)
    second.cancel()
    assert len((await first).ids) == 200
    assert len((await ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True)).ids) == 2
    assert second.cancelled()


@pytest.mark.parametrize(
    ("prompt", "params", "reason"),
    [
        ([], {}, "empty"),
        ([1, 99_999], {}, "vocabulary"),
        ([-1], {}, "vocabulary"),
        ([1], {"stop_token_ids": [99_999]}, "stop_token_ids"),
        ([1], {"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(ask, prompt, params, reason):
    with pytest.raises(InvalidRequest, match=reason):
        await ask(prompt, **params)


async def test_an_unknown_adapter_is_not_found(ask):
    with pytest.raises(NotFound, match="hw-nobody"):
        await ask(PROMPT, adapter="hw-nobody")


async def test_closing_tells_what_was_in_flight(open_backend, ask_on):
    backend = open_backend()
    running = asyncio.ensure_future(ask_on(backend, PROMPT, ignore_eos=True))
    await asyncio.sleep(0.02)
    await backend.close()
    with pytest.raises(Unavailable):
        await running
    with pytest.raises(Unavailable):
        await ask_on(backend, PROMPT)


async def test_a_step_that_fails_ends_what_ran_in_it_and_nothing_more(open_backend, ask_on, monkeypatch):
    backend = open_backend()
    forward = backend._engine._model.forward
    monkeypatch.setattr(backend._engine._model, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(Exception, match="step failed"):
        await ask_on(backend, PROMPT)
    monkeypatch.setattr(backend._engine._model, "forward", forward)
    assert (await ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True)).finish_reason == "length"


async def test_a_step_however_long_does_not_hold_up_the_event_loop(open_backend, ask_on, monkeypatch):
    backend = open_backend()
    forward, step_may_end = backend._engine._model.forward, threading.Event()

    def slow_forward(*args, **kwargs):
        assert step_may_end.wait(30)
        return forward(*args, **kwargs)

    monkeypatch.setattr(backend._engine._model, "forward", slow_forward)
    running = asyncio.ensure_future(ask_on(backend, PROMPT, max_tokens=2, ignore_eos=True))
    await asyncio.sleep(0.05)
    assert not running.done()
    assert await backend.tokenize(TokenizeRequest(text="us")) == [256]
    step_may_end.set()
    assert len((await running).ids) == 2
