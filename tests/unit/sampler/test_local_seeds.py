"""Where the randomness of requests without a seed comes from."""

from __future__ import annotations

import asyncio

from sampler.draws import Draws
from wire.sampling import MediaItem

PROMPT = [10, 20, 30, 40]


async def test_a_seeded_backend_repeats_its_run_while_repeats_of_a_prompt_differ(open_backend, ask_on):
    runs = []
    for _ in range(2):
        backend = open_backend(seed=11)
        group = await asyncio.gather(*(ask_on(backend, PROMPT, max_tokens=20) for _ in range(4)))
        other = await ask_on(backend, [*PROMPT, 50], max_tokens=20)
        runs.append([tuple(answer.ids) for answer in (*group, other)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


async def test_without_any_seed_two_runs_differ(open_backend, ask_on):
    backend = open_backend()
    first, second = await asyncio.gather(*(ask_on(backend, PROMPT, max_tokens=30) for _ in range(2)))
    assert first.ids != second.ids


async def test_a_refused_request_takes_nothing_from_the_seeded_streams(open_backend, ask_on):
    answers = []
    for refuse in (False, True):
        backend = open_backend(seed=12)
        if refuse:
            await asyncio.gather(ask_on(backend, [1] * 10_000), return_exceptions=True)
        answers.append((await ask_on(backend, PROMPT, max_tokens=20)).ids)
    assert answers[0] == answers[1]


def test_prompts_of_other_pictures_behind_equal_ids_have_streams_of_their_own():
    ids, draws = [1, 9, 9, 9, 9, 2], Draws(7)
    one, other = (MediaItem(start=1, num_tokens=4, name=name * 64, width=8, height=8) for name in "ab")
    two = [one.model_copy(update={"start": start, "num_tokens": 2}) for start in (1, 3)]
    first = [draws.stream(None, ids, media).random() for media in ([], [one], [other], two, two[:1], two[1:])]
    assert len(set(first)) == 6, "each of these prompts was asked for once"
    assert Draws(7).stream(None, ids, [other]).random() == first[2]
    assert draws.stream(None, ids, [other]).random() not in first
