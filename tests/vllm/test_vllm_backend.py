"""What only vLLM's backend does: canaries, promotions under load, a server that dies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings
from tests.ports.sampler_backends import Answer, ask_backend, load_all
from tests.unit.trainer.tiny import datum_of
from tests.vllm.conftest import SaveTrained
from tests.vllm.waiting import until
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import TrainingEngine
from wire.canary import Canary
from wire.engine import LoraConfig
from wire.errors import CorruptCheckpoint, InvalidRequest, Unavailable
from wire.sampling import GenerateRequest, SamplingParams

pytestmark = pytest.mark.vllm
PROMPT = [11, 12, 13, 14, 15]


def trainer_logprobs(base: BaseModel, engine: TrainingEngine, model, answer: Answer) -> list[float]:
    base.bind(engine._sessions.get(model))
    pack = base.pack([datum_of([*PROMPT, *answer.ids], len(PROMPT))])
    with torch.no_grad():
        return base.logprobs(pack)[0][pack.inverse_N].tolist()


async def test_sampled_logprobs_are_those_of_the_trainer(backend, ask, trainer_base, save_trained, tmp_path: Path):
    engine = TrainingEngine(trainer_base)
    differences: list[float] = []
    for name, seed in (("trained-a", 1), ("trained-b", 2), ("base", 0)):
        model, folder = uuid.uuid4(), None
        if name != "base":
            folder = save_trained(tmp_path / name, seed)
            await asyncio.to_thread(backend.load_adapter, name, folder)
        engine.open(model, LoraConfig(rank=4, alpha=8, init_seed=seed), folder, None)
        answers = await asyncio.gather(
            *(ask(PROMPT, adapter=name, seed=s, max_tokens=60, ignore_eos=True) for s in range(4))
        )
        for answer in answers:
            expected = trainer_logprobs(trainer_base, engine, model, answer)
            differences += np.abs(np.array(answer.logprobs) - expected).tolist()
        if folder is not None:
            backend.unload_adapter(name)
    print(f"largest {max(differences):.2g}, mean {np.mean(differences):.2g} nats over {len(differences)} tokens")
    assert max(differences) < 1e-4


def test_an_adapter_that_is_not_what_the_trainer_saved_is_refused(backend, save_trained: SaveTrained, tmp_path: Path):
    one, other = save_trained(tmp_path / "one", 3), save_trained(tmp_path / "other", 4)
    shutil.copyfile(one / "adapter_model.safetensors", other / "adapter_model.safetensors")
    with pytest.raises(CorruptCheckpoint, match="not what was saved"):
        backend.load_adapter("mixed-up", other)
    assert "mixed-up" not in backend.loaded()
    backend.load_adapter("mixed-up", one)
    backend.unload_adapter("mixed-up")


def test_what_vllm_would_serve_silently_wrong_is_refused_before_it_sees_it(backend, save_trained, tmp_path: Path):
    adapter = save_trained(tmp_path, 5)
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: weight[:, :16].contiguous() for name, weight in weights.items()}, file)
    with pytest.raises(CorruptCheckpoint, match="shapes"):
        backend.load_adapter("narrow", adapter)
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 128}))
    assert backend.details.max_lora_rank == 64, "which the server refuses at the fork already"
    with pytest.raises(InvalidRequest, match="rank 128"):
        backend.load_adapter("wide", adapter)


async def test_promotions_under_load_lose_no_request_and_mix_no_weights(backend, save_trained, tmp_path: Path):
    folders = [save_trained(tmp_path / str(number), 10 + number) for number in range(5)]
    await asyncio.to_thread(backend.load_adapter, "version-0", folders[0])
    current, answers, done = "version-0", [], asyncio.Event()

    async def client(number: int) -> None:
        while not done.is_set():
            name = current
            answer = await ask_backend(
                backend, [number + 1, 2, 3], adapter=name, temperature=0.0, max_tokens=20, ignore_eos=True
            )
            answers.append((name, number, answer))

    def answered() -> bool:
        return len([name for name, _, _ in answers if name == current]) >= 4

    clients = [asyncio.ensure_future(client(number)) for number in range(8)]
    for number in range(1, 5):
        await until(answered)
        last, new = current, f"version-{number}"
        await asyncio.to_thread(backend.load_adapter, new, folders[number])
        current = new
        await asyncio.to_thread(backend.unload_adapter, last)
        shutil.rmtree(folders[number - 1])
    await until(answered)
    done.set()
    await asyncio.gather(*clients)
    assert {name for name, _, _ in answers} == {f"version-{number}" for number in range(5)}
    logprobs: dict[tuple[str, int], list[float]] = {}
    for name, number, answer in answers:
        assert answer.logprobs == pytest.approx(logprobs.setdefault((name, number), answer.logprobs), abs=1e-4)
    assert backend.loaded() >= {"version-4"}
    backend.unload_adapter("version-4")


async def test_an_answer_comes_in_pieces_or_whole_and_is_the_same(backend):
    events: dict[bool, list] = {}
    for whole in (False, True):
        request = GenerateRequest(
            adapter="all-targets",
            prompt_token_ids=PROMPT,
            params=SamplingParams(seed=3, max_tokens=40, ignore_eos=True),
            whole=whole,
        )
        events[whole] = [event async for event in backend.generate(request)]
    assert len(events[True]) == 1 < len(events[False])
    assert [token_id for e in events[False] for token_id in e.tokens.ids] == events[True][0].tokens.ids
    assert "".join(event.text for event in events[False]) == events[True][0].text


async def test_a_request_that_is_left_alone_frees_its_adapter(backend, adapters):
    await asyncio.to_thread(backend.load_adapter, "left", adapters["all-targets"])
    request = GenerateRequest(
        adapter="left", prompt_token_ids=PROMPT, params=SamplingParams(ignore_eos=True, max_tokens=500)
    )
    events = backend.generate(request)
    await anext(events)
    folder = backend._adapters["left"].folder
    backend.unload_adapter("left")
    assert folder.exists(), "a request runs under it"
    await events.aclose()
    await until(lambda: not folder.exists())


async def test_another_sampler_can_attach_to_a_server_that_runs(
    backend: VllmBackend, base: Path, save_trained, tmp_path
):
    second = await asyncio.to_thread(VllmBackend, str(base), VllmSettings(url=backend._server.url))
    adapter = save_trained(tmp_path, 6)
    await asyncio.to_thread(second.load_adapter, "hw-attached", adapter)
    answer = await ask_backend(second, PROMPT, adapter="hw-attached", max_tokens=5, ignore_eos=True)
    assert len(answer.ids) == 5
    canary = Canary.read(adapter)
    assert canary is not None
    assert len(canary.greedy_ids) == len(canary.logprobs) == 16
    second.unload_adapter("hw-attached")
    await second.close()
    assert (await ask_backend(backend, PROMPT, max_tokens=3, ignore_eos=True)).finish_reason == "length"


@pytest.mark.kills_vllm
async def test_a_server_that_dies_comes_back_empty_and_is_filled_again(backend, adapters):
    running = asyncio.ensure_future(ask_backend(backend, PROMPT, adapter="base", max_tokens=500, ignore_eos=True))
    await asyncio.sleep(0.05)
    os.killpg(backend._server._process.pid, signal.SIGKILL)
    with pytest.raises(Unavailable):
        await running
    await until(lambda: backend.loaded() == set())
    with pytest.raises(Unavailable):
        backend.load_adapter("base", None)
    await until(lambda: backend._server.ready)
    await asyncio.to_thread(load_all, backend, adapters)
    answer = await ask_backend(backend, PROMPT, adapter="all-targets", max_tokens=5, ignore_eos=True)
    assert len(answer.ids) == 5
