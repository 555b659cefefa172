"""How the local sampler scores prompts: in pieces, whatever stands behind a base's head, between steps."""

from __future__ import annotations

import asyncio

import pytest

from sampler.backends.local import LocalBackend, packed_step
from sampler.backends.local.engine import score_prompt
from tests.ports.sampler_backends import ask_backend
from wire.errors import HeadwayError
from wire.sampling import ScoreRequest

IDS = [(7 * n + 3) % 250 for n in range(40)]
REQUEST = ScoreRequest(adapter="rslora-and-head", prompt_token_ids=IDS, top_logprobs=3, targets=[[n] for n in IDS[1:]])


async def test_pieces_make_the_same_scores_as_the_whole(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch):
    whole = await backend.score(REQUEST)
    monkeypatch.setattr(packed_step, "_HEAD_FLOATS", 7 * 270)
    pieces = await backend.score(REQUEST)
    assert pieces.logprobs == pytest.approx(whole.logprobs, abs=1e-6)
    assert pieces.top_ids == whole.top_ids
    assert pieces.targets == [[pytest.approx(logprob, abs=1e-6)] for logprob in whole.logprobs]


async def test_a_base_that_changes_the_heads_output_is_scored_by_its_own_forward(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
):
    assert backend._engine._model._head_is_last
    whole = await backend.score(REQUEST)
    monkeypatch.setattr(backend._engine._model, "_head_is_last", False)
    monkeypatch.setattr(packed_step, "_HEAD_FLOATS", 7 * 270)
    assert (await backend.score(REQUEST)).logprobs == pytest.approx(whole.logprobs, abs=1e-6)


async def test_a_prompt_that_fails_leaves_the_others_alone(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(f"{score_prompt.__module__.rpartition('.')[0]}.engine.score_prompt", fail)
    answer = asyncio.ensure_future(ask_backend(backend, IDS, max_tokens=30, ignore_eos=True))
    with pytest.raises(HeadwayError, match="out of everything"):
        await backend.score(REQUEST)
    assert len((await answer).ids) == 30


async def test_many_prompts_are_scored_at_once_and_a_cancelled_one_is_left_out(backend: LocalBackend):
    leaving = asyncio.ensure_future(backend.score(REQUEST))
    others = [asyncio.ensure_future(backend.score(REQUEST)) for _ in range(8)]
    await asyncio.sleep(0)
    leaving.cancel()
    scores = await asyncio.gather(*others)
    assert all(one == scores[0] for one in scores)
