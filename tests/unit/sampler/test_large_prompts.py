"""Prompts that are too long, or long: refused by their length first, and worked on where nobody else waits."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import pytest_asyncio

from sampler.admission.prompt_limits import PromptLimits
from sampler.chat.text import ChatText, is_large
from wire.errors import ContextLengthExceeded, InvalidRequest
from wire.sampling import RenderRequest, TokenizeRequest

LIMITS = PromptLimits(context_length=512, longest_token=12)
TOO_MANY = LIMITS.max_characters + 1


def chat(content: object, role: str = "user", **more) -> RenderRequest:
    return RenderRequest(messages=[{"role": role, "content": content}], **more)


SMALL = chat("hi")
LARGE = chat("hi", chat_template_kwargs={"unused": "x" * 40_000})
"""Large for what comes along, and short in tokens."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chat_text(base, tokenizer):
    text = ChatText(str(base), tokenizer, LIMITS)
    yield text
    text.close()


def forbidden(*_args, **_kwargs):
    raise AssertionError("nothing is rendered or tokenized")


@pytest.mark.parametrize(
    "request_",
    [
        chat("x" * TOO_MANY),
        chat([{"type": "text", "text": "x" * 4000}] * 2),
        RenderRequest(messages=[{"role": "user", "content": "x" * 4000}, {"role": "tool", "content": "x" * 4000}]),
        RenderRequest(messages=[{"role": "user", "content": ""}] * 513),
        chat("hi", continued_ids=[1] * 512),
        TokenizeRequest(text="x" * TOO_MANY),
    ],
)
async def test_what_cannot_fit_is_refused_by_its_length_alone(chat_text, monkeypatch, request_):
    monkeypatch.setattr(chat_text, "_renderer", None)
    monkeypatch.setattr(chat_text._worker, "ids", forbidden)
    ask = chat_text.render if isinstance(request_, RenderRequest) else chat_text.tokenize
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 512 tokens"):
        await ask(request_)


async def test_what_could_fit_by_its_length_and_does_not_is_refused_by_its_tokens(chat_text):
    for ask, request in ((chat_text.render, chat("x" * 600)), (chat_text.tokenize, TokenizeRequest(text="x" * 600))):
        with pytest.raises(ContextLengthExceeded, match=r"the prompt has 6\d\d tokens"):
            await ask(request)


async def test_answers_of_the_history_are_measured_once_they_are_rendered(chat_text):
    history = [*SMALL.messages, {"role": "assistant", "content": "x" * TOO_MANY}, *SMALL.messages]
    with pytest.raises(ContextLengthExceeded, match=r"the prompt has 6\d\d\d characters"):
        await chat_text.render(RenderRequest(messages=history))


async def test_large_prompts_give_the_same_ids_in_a_process_of_their_own(chat_text):
    assert not is_large(SMALL.messages)
    assert is_large(LARGE.chat_template_kwargs)
    assert await chat_text.render(LARGE) == await chat_text.render(SMALL)
    assert chat_text._worker.pid is not None


async def test_refusals_come_back_from_there_as_they_are(chat_text):
    wrong = LARGE.model_copy(update={"messages": [{"role": "critic"}]})
    with pytest.raises(InvalidRequest, match="unknown message role 'critic'"):
        await chat_text.render(wrong)
    deep: list = []
    for _ in range(250):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        await chat_text.render(LARGE.model_copy(update={"chat_template_kwargs": {"x": deep, "y": "x" * 40_000}}))


async def test_small_prompts_do_not_wait_for_large_ones_and_who_hangs_up_ends_the_work(chat_text):
    expected = await chat_text.render(LARGE)
    first = chat_text._worker.pid
    os.kill(first, signal.SIGSTOP)
    waiting = [asyncio.ensure_future(chat_text.render(LARGE)) for _ in range(2)]
    while chat_text._worker._under_way is None:  # noqa: ASYNC110 (nothing signals it)
        await asyncio.sleep(0.01)
    assert await chat_text.render(SMALL) == expected
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    assert await waiting[1] == expected
    assert chat_text._worker.pid != first


async def test_a_prompt_that_takes_too_long_is_refused_and_the_next_one_is_rendered(chat_text, monkeypatch):
    expected = await chat_text.render(LARGE)
    monkeypatch.setattr(chat_text._worker, "_most_s", 0.2)
    os.kill(chat_text._worker.pid, signal.SIGSTOP)
    with pytest.raises(InvalidRequest, match="takes longer than 0 s; shorten it"):
        await chat_text.render(LARGE)
    monkeypatch.setattr(chat_text._worker, "_most_s", 60.0)
    assert await chat_text.render(LARGE) == expected


async def test_a_process_that_dies_is_replaced(chat_text):
    expected = await chat_text.render(LARGE)
    os.kill(chat_text._worker.pid, signal.SIGKILL)
    assert await chat_text.render(LARGE) == expected
