"""What every sampler backend does (`sampler.backends.base`): one suite for the local one, vLLM, and the scripted one.

What they compute with a base's weights is in `test_sampler_weights.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import shutil
from contextlib import aclosing

import pytest

from sampler.chat.reading import joined
from tests.ports.sampler_backends import CONTEXT, Answer, Sampler, ask_backend, asking, collect, put_together
from wire.errors import Conflict, ContextLengthExceeded, InvalidRequest, NotFound, Unavailable
from wire.sampling import DerenderRequest, ParseOptions, RenderRequest, TokenizeRequest

PROMPT = [11, 12, 13, 14, 15, 16]
USER = {"role": "user", "content": "hi"}
ENDLESS = {"max_tokens": 400, "ignore_eos": True}


def test_a_sampler_knows_its_base(sampler: Sampler):
    info = sampler.backend.info
    assert info.context_length == sampler.backend.prompt_limits.context_length == CONTEXT
    assert info.eos_ids
    assert all(0 <= eos_id < info.vocab_size for eos_id in info.eos_ids)
    assert sampler.backend.trouble() is None
    assert sampler.backend.final_trouble() is None


# Events


async def test_only_the_last_event_has_a_finish_reason_and_columns_are_equally_long(sampler: Sampler):
    request = asking(PROMPT, seed=3, top_logprobs=2, max_tokens=60, ignore_eos=True)
    async with aclosing(sampler.backend.generate(request)) as generated:
        events = [event async for event in generated]
    assert [event.finish_reason is None for event in events] == [True] * (len(events) - 1) + [False]
    for event in events:
        tokens = event.tokens
        assert len(tokens.ids) == len(tokens.texts) == len(tokens.logprobs) == len(tokens.top_logprobs)
        assert (event.deltas, event.message) == ([], None), "for readers and derender, whom somebody else asks"
    assert len(put_together(events).ids) == 60


async def test_an_answer_comes_in_pieces_or_whole_and_is_the_same(sampler: Sampler):
    answers = []
    for whole in (False, True):
        request = asking(PROMPT, adapter="all-targets", seed=3, max_tokens=40, ignore_eos=True)
        answers.append(await collect(sampler.backend, request.model_copy(update={"whole": whole})))
    assert answers[0] == answers[1]


async def test_tokens_come_while_others_are_still_to_come(sampler: Sampler):
    async with aclosing(sampler.backend.generate(asking(PROMPT, **ENDLESS))) as events:
        first = await anext(events)
    assert first.finish_reason is None
    assert len(first.tokens) < 400


@pytest.mark.parametrize("seed", range(3))
async def test_text_is_that_of_the_tokens(sampler: Sampler, seed: int):
    answer = await sampler.ask(PROMPT, seed=seed, max_tokens=60, temperature=1.5)
    tokens = answer.tokens
    whole = b"".join(map(tokens.bytes_of, tokens.ids, tokens.texts)).decode(errors="replace")
    assert whole.rstrip("\ufffd") == answer.text.rstrip("\ufffd")


# Why an answer ends


async def test_an_answer_ends_at_its_limit(sampler: Sampler):
    answer = await sampler.ask(PROMPT, max_tokens=7, ignore_eos=True)
    assert (len(answer.ids), answer.finish_reason) == (7, "length")


async def test_without_max_tokens_an_answer_ends_at_the_context(sampler: Sampler):
    prompt = PROMPT * 80
    answer = await sampler.ask(prompt, ignore_eos=True)
    assert len(prompt) + len(answer.ids) == CONTEXT
    assert answer.finish_reason == "length"


async def test_a_prompt_may_fill_the_context_but_for_one_token(sampler: Sampler):
    answer = await sampler.ask([1] * (CONTEXT - 1), ignore_eos=True)
    assert (len(answer.ids), answer.finish_reason) == (1, "length")
    cut = await sampler.ask([1] * (CONTEXT - 4), max_tokens=5, ignore_eos=True)
    assert (len(cut.ids), cut.finish_reason) == (4, "length")


async def first_that_ends(sampler: Sampler, temperature: float) -> tuple[int, Answer]:
    """The seed and the answer that ends by itself before all others of sixteen, which are cancelled then."""

    async def ask(seed: int) -> tuple[int, Answer]:
        return seed, await sampler.ask(PROMPT, seed=seed, temperature=temperature)

    asked = [asyncio.ensure_future(ask(seed)) for seed in range(16)]
    try:
        for one in asyncio.as_completed(asked):
            seed, answer = await one
            if answer.finish_reason == "stop":
                return seed, answer
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    pytest.fail("none of sixteen answers ended before the context did")


async def test_eos_ends_an_answer_and_is_its_last_token(sampler: Sampler):
    _, answer = await first_that_ends(sampler, temperature=1.5)
    (eos_id,) = sampler.backend.info.eos_ids
    assert answer.ids[-1] == eos_id
    assert eos_id not in answer.ids[:-1]
    assert answer.tokens.texts[-1] == sampler.end_text
    assert not sampler.end_text or sampler.end_text not in answer.text


async def test_min_tokens_keep_an_answer_from_ending(sampler: Sampler):
    seed, short = await first_that_ends(sampler, temperature=1.5)
    least = len(short.ids) + 10
    longer = await sampler.ask(PROMPT, temperature=1.5, seed=seed, min_tokens=least, max_tokens=least + 10)
    assert not {*longer.ids[:least]} & {*sampler.backend.info.eos_ids}
    assert len(longer.ids) >= least


async def test_a_stop_token_is_kept_as_an_id_and_left_out_of_the_text(sampler: Sampler):
    free = await sampler.ask(PROMPT, seed=1, max_tokens=30, ignore_eos=True)
    stop_id = free.ids[12]
    answer = await sampler.ask(PROMPT, seed=1, max_tokens=30, ignore_eos=True, stop_token_ids=[stop_id])
    assert answer.ids == free.ids[: free.ids.index(stop_id) + 1]
    assert answer.finish_reason == "stop"
    assert free.text.startswith(answer.text)


async def test_a_stop_string_cuts_the_text_and_keeps_the_tokens_that_complete_it(sampler: Sampler):
    free = await sampler.ask([21, 22, 23], seed=6, max_tokens=80, ignore_eos=True)
    readable = [n for n in range(10, 70) if free.tokens.texts[n].isascii() and free.tokens.texts[n]]
    at = next(n for n in readable if n + 1 in readable)
    stop = free.tokens.texts[at] + free.tokens.texts[at + 1]
    answer = await sampler.ask([21, 22, 23], seed=6, max_tokens=80, ignore_eos=True, stop=[stop, "never said"])
    assert answer.finish_reason == "stop"
    assert answer.ids == free.ids[: len(answer.ids)]
    assert answer.text == free.text[: free.text.index(stop)]
    tokens = answer.tokens
    assert b"".join(map(tokens.bytes_of, tokens.ids, tokens.texts)).endswith(stop.encode())


async def test_a_stop_string_may_name_a_control_token(sampler: Sampler):
    if not sampler.end_text:
        pytest.skip("it has no names for control tokens")
    seed, free = await first_that_ends(sampler, temperature=2.0)
    asked = {"temperature": 2.0, "ignore_eos": True, "max_tokens": len(free.ids) + 20}
    kept = await sampler.ask(PROMPT, seed=seed, skip_special_tokens=False, stop=[sampler.end_text], **asked)
    assert kept.ids == free.ids
    assert kept.finish_reason == "stop"


# Logprobs


async def test_alternatives_are_as_many_as_were_asked_for_the_most_likely_first(sampler: Sampler):
    plain = await sampler.ask(PROMPT, seed=5, max_tokens=20, ignore_eos=True)
    assert plain.tokens.top_logprobs == []
    answer = await sampler.ask(PROMPT, seed=5, max_tokens=20, ignore_eos=True, top_logprobs=4)
    assert answer.ids == plain.ids
    assert all(math.isfinite(logprob) and logprob <= 1e-6 for logprob in answer.logprobs)
    assert [len(row) for row in answer.tokens.top_logprobs] == [4] * 20
    for token_id, logprob, row in zip(answer.ids, answer.logprobs, answer.tokens.top_logprobs, strict=True):
        logprobs = [top.logprob for top in row]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) < 1 + 1e-6
        assert len({top.token_id for top in row}) == 4
        assert all(top.logprob == pytest.approx(logprob, abs=1e-6) for top in row if top.token_id == token_id)


async def test_what_cannot_be_drawn_is_no_alternative(sampler: Sampler):
    answer = await sampler.ask(PROMPT, seed=5, max_tokens=10, ignore_eos=True, top_logprobs=6, top_k=3)
    for token_id, row in zip(answer.ids, answer.tokens.top_logprobs, strict=True):
        assert len(row) == 3
        assert token_id in {top.token_id for top in row}
        assert sum(math.exp(top.logprob) for top in row) == pytest.approx(1, abs=1e-4)


async def test_greedy_takes_the_most_likely_token_and_reports_its_logprob_at_temperature_one(sampler: Sampler):
    greedy = await sampler.ask(PROMPT, temperature=0.0, max_tokens=10, ignore_eos=True, top_logprobs=2)
    assert greedy.ids == [row[0].token_id for row in greedy.tokens.top_logprobs]
    assert greedy.logprobs == pytest.approx([row[0].logprob for row in greedy.tokens.top_logprobs], abs=1e-6)
    assert all(logprob < 0 for logprob in greedy.logprobs)
    again = await sampler.ask(PROMPT, temperature=0.0, max_tokens=10, ignore_eos=True, seed=9)
    assert again.ids == greedy.ids


# Logprobs of the prompt


async def test_scores_of_an_answer_are_its_sampling_logprobs(sampler: Sampler):
    answers = await asyncio.gather(
        *(sampler.ask(PROMPT, adapter=name, seed=1, max_tokens=12, ignore_eos=True) for name in sampler.adapters)
    )
    for name, answer in zip(sampler.adapters, answers, strict=True):
        scores = await sampler.score([*PROMPT, *answer.ids], adapter=name)
        assert len(scores.logprobs) == len(PROMPT) - 1 + 12, "one for each token after the first"
        assert scores.logprobs[-12:] == pytest.approx(answer.logprobs, abs=1e-4)
        assert (scores.top_ids, scores.top_logprobs, scores.targets) == ([], [], None)


async def test_scores_are_the_same_alone_and_in_any_company(sampler: Sampler):
    ids = (await sampler.ask(PROMPT, seed=1, max_tokens=40, ignore_eos=True)).ids
    names = ["base", *sampler.adapters]
    alone = [await sampler.score(ids, adapter=name) for name in names]
    company = [sampler.ask([n, n + 1], adapter=name, max_tokens=30) for n in range(1, 5) for name in names]
    crowded = await asyncio.gather(*(sampler.score(ids, adapter=name) for name in names), *company)
    for one, other in zip(alone, crowded[: len(names)], strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)


async def test_scores_of_the_last_tokens_are_the_end_of_all_of_them(sampler: Sampler):
    ids = (await sampler.ask(PROMPT, seed=1, max_tokens=10, ignore_eos=True)).ids
    whole, last = await sampler.score(ids, top_logprobs=2), await sampler.score(ids, top_logprobs=2, last_n=4)
    assert last.logprobs == pytest.approx(whole.logprobs[-4:], abs=1e-5)
    assert last.top_ids == whole.top_ids[-4:]
    assert len((await sampler.score(ids, last_n=99)).logprobs) == len(ids) - 1
    assert (await sampler.score(ids[:1])).logprobs == []


async def test_the_likeliest_tokens_of_each_place_come_first(sampler: Sampler):
    ids = (await sampler.ask(PROMPT, temperature=0.0, max_tokens=8, ignore_eos=True)).ids
    scores = await sampler.score([*PROMPT, *ids], top_logprobs=5)
    assert {len(row) for row in (*scores.top_ids, *scores.top_logprobs)} == {5}
    assert all(row == sorted(row, reverse=True) for row in scores.top_logprobs)
    assert [row[0] for row in scores.top_ids[-8:]] == ids
    assert [row[0] for row in scores.top_logprobs[-8:]] == pytest.approx(scores.logprobs[-8:], abs=1e-5)


async def test_scores_of_other_tokens_come_in_the_layout_in_which_they_were_asked_for(sampler: Sampler):
    ids = (await sampler.ask(PROMPT, seed=1, max_tokens=6, ignore_eos=True)).ids
    targets = [[token_id, -1, ids[0]] for token_id in ids[1:]]
    try:
        scores = await sampler.score(ids, targets=targets)
    except InvalidRequest as refusal:
        assert refusal.param == "targets"
        return
    assert scores.targets is not None
    assert [row[0] for row in scores.targets] == pytest.approx(scores.logprobs, abs=1e-5)
    assert [row[1] for row in scores.targets] == [None] * 5
    assert all(isinstance(row[2], float) for row in scores.targets)
    last = (await sampler.score(ids, targets=targets, last_n=2)).targets
    assert last is not None
    assert last[:3] == [[None] * 3] * 3
    assert [row[2] for row in last[3:]] == pytest.approx([row[2] for row in scores.targets[3:]], abs=1e-5)


@pytest.mark.parametrize(
    ("prompt", "params", "reason"),
    [
        ([], {}, "empty"),
        ([1, 99_999], {}, "vocabulary"),
        ([1] * (CONTEXT + 1), {}, "maximum context length"),
        ([1, 2, 3], {"targets": [[1]]}, "2 rows"),
        ([1, 2, 3], {"targets": [[1], [1, 2]]}, "of one length"),
        ([1, 2, 3], {"targets": [[1], [99_999]]}, "vocabulary"),
    ],
)
async def test_scores_that_make_no_sense_are_refused(sampler: Sampler, prompt, params, reason):
    with pytest.raises(InvalidRequest, match=reason):
        await sampler.score(prompt, **params)
    with pytest.raises(NotFound, match="hw-nobody"):
        await sampler.score([1, 2], adapter="hw-nobody")


# Seeds


async def test_a_seed_gives_the_same_tokens_alone_and_in_any_company(sampler: Sampler):
    alone = await sampler.ask(PROMPT, seed=3, max_tokens=40, ignore_eos=True)
    company = [sampler.ask([n, n + 1], adapter="all-targets", max_tokens=5 * n) for n in range(1, 9)]
    crowded, *_ = await asyncio.gather(sampler.ask(PROMPT, seed=3, max_tokens=40, ignore_eos=True), *company)
    assert crowded.ids == alone.ids


async def test_seeds_differ_and_so_do_their_negatives(sampler: Sampler):
    answers = await asyncio.gather(*(sampler.ask(PROMPT, seed=seed, max_tokens=20) for seed in (1, -1, 2)))
    assert len({tuple(answer.ids) for answer in answers}) == 3


async def test_rollouts_of_one_prompt_differ_without_seeds_and_are_each_as_if_alone_with_them(sampler: Sampler):
    unseeded = await asyncio.gather(*(sampler.ask(PROMPT, max_tokens=30, ignore_eos=True) for _ in range(4)))
    assert len({tuple(answer.ids) for answer in unseeded}) == 4
    seeded = [{"adapter": "all-targets", "seed": seed, "max_tokens": 30} for seed in range(6)]
    alone = [await sampler.ask(PROMPT, **params) for params in seeded]
    together = await asyncio.gather(*(sampler.ask(PROMPT, **params) for params in seeded))
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    for one, other in zip(alone, together, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-6)


# Refusals, before anything is sampled


@pytest.mark.parametrize(
    ("prompt", "params", "reason"),
    [
        ([], {}, "empty"),
        ([1, 99_999], {}, "vocabulary"),
        ([-1], {}, "vocabulary"),
        ([1], {"stop_token_ids": [99_999]}, "stop_token_ids"),
        ([1], {"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ([1] * (CONTEXT - 4), {"min_tokens": 5}, "min_tokens is 5, more than the 4 tokens that may be sampled"),
        ([1] * (CONTEXT - 4), {"min_tokens": 5, "max_tokens": 9}, "min_tokens is 5, more than the 4 tokens"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(sampler: Sampler, prompt, params, reason):
    with pytest.raises(InvalidRequest, match=reason):
        await anext(sampler.backend.generate(asking(prompt, **params)))


async def test_a_prompt_that_fills_the_context_is_refused(sampler: Sampler):
    sentence = f"maximum context length is {CONTEXT} tokens. However, the prompt has {CONTEXT}"
    with pytest.raises(ContextLengthExceeded, match=sentence):
        await sampler.ask([1] * CONTEXT)


async def test_an_unknown_adapter_is_not_found(sampler: Sampler):
    with pytest.raises(NotFound, match="hw-nobody"):
        await sampler.ask(PROMPT, adapter="hw-nobody")


# Constraints


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        ({"choice": ["yes", "no", "<think>"]}, "yes|no|<think>"),
        ({"regex": "[0-9]{3}"}, "[0-9]{3}"),
        ({"json_schema": {"enum": ["x", 3, None]}}, '"x"|3|null'),
        ({"grammar": 'start: "a" "b"? "c"'}, "ab?c"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_constraint_is_kept_to_or_refused(sampler: Sampler, constraint, form):
    if not sampler.backend.info.constrains:
        pytest.skip("the HTTP app refuses all constraints for it")
    asked = (sampler.ask(PROMPT, seed=seed, constraint=constraint) for seed in range(8))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    if "choice" not in constraint and all(isinstance(answer, InvalidRequest) for answer in answers):
        assert {answer.param for answer in answers} == {"constraint"}
        assert "cannot keep to this constraint" in answers[0].message
        return
    for answer in answers:
        assert re.fullmatch(form, answer.text), answer.text
        assert answer.finish_reason == "stop"


async def test_a_constraint_that_makes_no_sense_is_the_clients_to_change(sampler: Sampler):
    with pytest.raises(InvalidRequest, match="cannot keep to this constraint") as caught:
        await sampler.ask(PROMPT, constraint={"regex": "("})
    assert caught.value.param == "constraint"


# Adapters


def test_a_name_is_never_given_other_weights(sampler: Sampler):
    with pytest.raises(Conflict):
        sampler.backend.load_adapter("all-targets", sampler.adapters["attention-only"])
    with pytest.raises(Conflict):
        sampler.backend.load_adapter("base", None)
    assert sampler.backend.loaded() >= {"base", *sampler.adapters}


def test_unloading_an_unknown_name_is_fine(sampler: Sampler):
    sampler.backend.unload_adapter("never-heard-of")


def test_a_missing_folder_is_not_found(sampler: Sampler, tmp_path):
    with pytest.raises(NotFound):
        sampler.backend.load_adapter("nowhere", tmp_path / "nowhere")
    assert "nowhere" not in sampler.backend.loaded()


async def test_a_name_that_was_unloaded_may_be_loaded_again(sampler: Sampler):
    for _ in range(2):
        await asyncio.to_thread(sampler.backend.load_adapter, "coming-back", sampler.adapters["all-targets"])
        assert "coming-back" in sampler.backend.loaded()
        assert len((await sampler.ask(PROMPT, adapter="coming-back", max_tokens=2, ignore_eos=True)).ids) == 2
        sampler.backend.unload_adapter("coming-back")
        assert "coming-back" not in sampler.backend.loaded()


async def test_an_unloaded_adapter_serves_its_requests_to_the_end_and_no_new_ones(sampler: Sampler, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(sampler.adapters["all-targets"], folder)
    await asyncio.to_thread(sampler.backend.load_adapter, "leaving", folder)
    expected = await sampler.ask(PROMPT, adapter="all-targets", seed=2, max_tokens=80, ignore_eos=True)
    async with aclosing(
        sampler.backend.generate(asking(PROMPT, adapter="leaving", seed=2, max_tokens=80, ignore_eos=True))
    ) as events:
        first = await anext(events)
        assert first.finish_reason is None
        await asyncio.to_thread(sampler.backend.unload_adapter, "leaving")
        shutil.rmtree(folder)
        assert "leaving" not in sampler.backend.loaded()
        with pytest.raises(NotFound, match="leaving"):
            await sampler.ask(PROMPT, adapter="leaving")
        answer = put_together([first, *[event async for event in events]])
    assert answer.ids == expected.ids


async def test_loads_and_unloads_change_nothing_for_what_runs(sampler: Sampler):
    names = ["base", "all-targets", "attention-only", "rslora-and-head"]
    asked = [{"adapter": name, "seed": 1, "max_tokens": 60, "ignore_eos": True} for name in names]
    quiet = [await sampler.ask(PROMPT, **params) for params in asked]
    running = [asyncio.ensure_future(sampler.ask(PROMPT, **params)) for params in asked]
    passing = (f"passing-{number}" for number in itertools.count())
    while not all(answer.done() for answer in running):
        name = next(passing)
        await asyncio.to_thread(sampler.backend.load_adapter, name, sampler.adapters["all-targets"])
        await sampler.ask(PROMPT, adapter=name, max_tokens=2)
        await asyncio.to_thread(sampler.backend.unload_adapter, name)
    assert [answer.ids for answer in await asyncio.gather(*running)] == [answer.ids for answer in quiet]


# Whoever leaves


async def test_who_leaves_in_the_middle_ends_the_generation_and_others_go_on(sampler: Sampler):
    expected = await sampler.ask(PROMPT, seed=4, max_tokens=60, ignore_eos=True)
    others = [asyncio.ensure_future(sampler.ask(PROMPT, seed=4, max_tokens=60, ignore_eos=True)) for _ in range(2)]
    async with aclosing(sampler.backend.generate(asking(PROMPT, **ENDLESS))) as events:
        await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert [answer.ids for answer in await asyncio.gather(*others)] == [expected.ids] * 2


async def test_a_request_is_cancelled_before_and_after_its_first_token(sampler: Sampler):
    began = asyncio.Event()

    async def read() -> None:
        async with aclosing(sampler.backend.generate(asking(PROMPT, **ENDLESS))) as events:
            async for _ in events:
                began.set()

    for moment in (asyncio.sleep(0), began.wait()):
        reading = asyncio.ensure_future(read())
        await moment
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert len((await sampler.ask(PROMPT, max_tokens=3, ignore_eos=True)).ids) == 3


async def test_closing_ends_what_is_in_flight_and_refuses_what_comes(sampler: Sampler):
    backend = await asyncio.to_thread(sampler.open_another)
    assert backend.loaded() == set()
    await asyncio.to_thread(backend.load_adapter, "of-another", None)
    async with aclosing(backend.generate(asking(PROMPT, adapter="of-another", **ENDLESS))) as events:
        await anext(events)
        await backend.close()
        if not sampler.ends_requests:
            assert [event async for event in events][-1].finish_reason == "length"
            return
        with pytest.raises(Unavailable):
            async for _ in events:
                pass
    with pytest.raises(Unavailable):
        await ask_backend(backend, PROMPT, adapter="of-another")
    assert backend.trouble() is not None


# Chats and texts


async def test_texts_and_chats_become_ids_of_the_vocabulary(sampler: Sampler):
    text = await sampler.backend.tokenize(TokenizeRequest(text="us and them"))
    chat = (await sampler.backend.render(RenderRequest(messages=[USER]))).token_ids
    bare = (await sampler.backend.render(RenderRequest(messages=[USER], add_generation_prompt=False))).token_ids
    for ids in (text, chat, bare):
        assert ids
        assert all(0 <= token_id < sampler.backend.info.vocab_size for token_id in ids)
    assert chat[: len(bare)] == bare
    assert len(chat) > len(bare)
    assert chat == (await sampler.backend.render(RenderRequest(messages=[USER]))).token_ids, (
        "the same chat, the same ids"
    )


async def test_people_read_the_text_of_each_token(sampler: Sampler):
    plain = sampler.backend.token_texts(await sampler.backend.tokenize(TokenizeRequest(text="us and them")))
    assert "".join(plain.texts) == "us and them"
    assert plain.special == []
    (eos_id,) = sampler.backend.info.eos_ids
    named = sampler.backend.token_texts([-1, eos_id, 10**8])
    assert (named.texts[0], named.texts[2]) == ("", "")
    assert named.texts[1]
    assert named.special == [1]


async def test_continued_ids_come_back_untouched(sampler: Sampler):
    so_far = [99, 98, 97, 96]
    messages = [USER, {"role": "assistant", "content": "36"}, {"role": "user", "content": "and?"}]
    ids = (
        await sampler.backend.render(RenderRequest(messages=messages, continued_ids=so_far, continued_messages=2))
    ).token_ids
    assert ids[: len(so_far)] == so_far
    assert len(ids) > len(so_far)


async def test_what_cannot_fit_is_refused_by_its_length(sampler: Sampler):
    long = "x" * (sampler.backend.prompt_limits.max_characters + 1)
    for work in (
        sampler.backend.tokenize(TokenizeRequest(text=long)),
        sampler.backend.render(RenderRequest(messages=[{"role": "user", "content": long}])),
        sampler.backend.render(RenderRequest(messages=[USER] * (CONTEXT + 1))),
        sampler.backend.render(RenderRequest(messages=[USER], continued_ids=[1] * CONTEXT)),
    ):
        with pytest.raises(ContextLengthExceeded, match=f"maximum context length is {CONTEXT} tokens"):
            await work


async def test_an_answer_is_read_alike_while_it_comes_and_at_the_end(sampler: Sampler):
    prompt = (await sampler.backend.render(RenderRequest(messages=[USER]))).token_ids
    request = asking(prompt, seed=1, max_tokens=30, ignore_eos=True)
    reading = ParseOptions()
    reader = sampler.backend.reader(request, reading)
    async with aclosing(sampler.backend.generate(request)) as generated:
        events = [event async for event in generated]
    deltas = list(itertools.chain(*[await reader.take(event) for event in events]))
    answer = put_together(events)
    asked = DerenderRequest(token_ids=answer.ids, text=answer.text, prompt_token_ids=prompt)
    message = await sampler.backend.derender(asked)
    assert joined(deltas) == message
    assert (message.content, message.tool_calls) == (answer.text, [])
