"""Models that do not fit are parked, and come back as if they had never left."""

from __future__ import annotations

import gc
import stat
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.trainer.tiny import LORA, BatchEngine, mixed_batch, opened, session, tiny_model
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.lora_layout import LoraLayout
from trainer.engine.residency import ResidentSessions
from trainer.engine.session import Session
from trainer.engine.spill import SpillFolder
from wire.engine import AdamParams, LoraConfig, LossChoice
from wire.errors import NotFound, SpillLost

IS = LossChoice("importance_sampling")
STEP = AdamParams(1e-2)
A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
OTHER_SHAPE = LoraConfig(rank=5, alpha=7)
CPU = torch.device("cpu")


def engine_with_room_for(num_bytes: int | None, spill_root: Path) -> BatchEngine:
    settings = EngineSettings(threads=1, max_resident_bytes=num_bytes, spill_root=spill_root)
    return BatchEngine(BaseModel(tiny_model()), settings)


def three_models(engine: BatchEngine) -> BatchEngine:
    opened(engine, A)
    opened(engine, B, seed=5)
    return opened(engine, C, seed=6, lora=OTHER_SHAPE)


def bits(engine: BatchEngine, model: UUID) -> list[torch.Tensor]:
    held = session(engine, model)
    return [*(buffer.clone() for buffer in held.buffers().values()), torch.tensor(held.num_steps)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.safetensors"))


# In the engine


def take_turns(engine: BatchEngine) -> None:
    for round_ in range(2):
        for seed, model in enumerate((A, B, C)):
            engine.forward_backward(model, mixed_batch(10 * seed + round_), IS)
        engine.forward(B, mixed_batch(3))
        for seed, model in enumerate((C, A, B)):
            engine.forward_backward(model, mixed_batch(7 * seed + round_), LossChoice("ppo"))
        engine.optim_step(B, STEP)
        engine.optim_step(A, STEP)  # C's gradient is left, on top of which the next round comes
    engine.optim_step(C, STEP)
    engine.forward_backward(A, mixed_batch(5), IS)


@pytest.mark.parametrize("budget", [1, 40_000], ids=["room for one", "room for one or two"])
def test_three_models_that_share_a_small_device_end_in_the_bits_they_have_without_a_limit(
    budget: int, tmp_path: Path
) -> None:
    free, tight = (
        three_models(engine_with_room_for(None, tmp_path)),
        three_models(engine_with_room_for(budget, tmp_path)),
    )
    take_turns(free)
    take_turns(tight)
    assert files(tmp_path)
    for model in (A, B, C):
        assert same(bits(tight, model), bits(free, model))


def test_a_model_is_parked_with_its_pending_gradient_and_moments(tmp_path: Path) -> None:
    engine = opened(engine_with_room_for(1, tmp_path), A)
    engine.forward_backward(A, mixed_batch(0), IS)
    engine.optim_step(A, STEP)
    engine.forward_backward(A, mixed_batch(1), IS)
    before = bits(engine, A)
    opened(engine, B)
    assert len(files(tmp_path)) == 1
    engine.forward_backward(B, mixed_batch(2), IS)
    assert same(bits(engine, A), before)
    assert before[1].any()
    assert before[2].any()
    assert before[4] == 1


def test_the_memory_of_a_parked_model_is_free_even_if_it_was_bound(tmp_path: Path) -> None:
    for lora in (LORA, OTHER_SHAPE):
        engine = opened(engine_with_room_for(1, tmp_path), A)
        engine.forward_backward(A, mixed_batch(), IS)
        bound = weakref.ref(session(engine, A).weights)
        engine.optim_step(A, STEP)  # bound is stale now
        engine.open(B, lora, None, None)
        gc.collect()
        assert bound() is None


def test_a_closed_model_leaves_no_file_and_is_not_there(tmp_path: Path) -> None:
    engine = three_models(engine_with_room_for(1, tmp_path))
    assert len(files(tmp_path)) == 2
    engine.close(A)
    assert len(files(tmp_path)) == 1
    engine.close(C)
    assert not engine.holds(A)
    assert not engine.holds(C)
    assert engine.holds(B)
    assert not files(tmp_path)
    with pytest.raises(NotFound):
        engine.optim_step(A, STEP)


def test_opening_a_parked_model_again_replaces_it(tmp_path: Path) -> None:
    engine = three_models(engine_with_room_for(1, tmp_path))
    engine.open(A, LORA, None, None)
    fresh = engine_with_room_for(None, tmp_path)
    fresh.open(A, LORA, None, None)
    assert same(bits(engine, A), bits(fresh, A))
    assert len(files(tmp_path)) == 2


def _vanish(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def _drop_the_gradient(path: Path) -> None:
    tensors = load_file(path)
    save_file({name: t.clone() for name, t in tensors.items() if name != "gradient"}, path)


def _halve_the_precision(path: Path) -> None:
    save_file({name: t.half() for name, t in load_file(path).items()}, path)


@pytest.mark.parametrize("damage", [_vanish, _truncate, _flip_a_bit, _drop_the_gradient, _halve_the_precision])
def test_a_file_that_was_damaged_is_an_error_and_the_model_has_to_be_opened_again(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    engine = opened(opened(engine_with_room_for(1, tmp_path), A), B)
    (path,) = files(tmp_path)
    damage(path)
    with pytest.raises(SpillLost, match="parked on disk"):
        engine.forward_backward(A, mixed_batch(), IS)
    assert not engine.holds(A)
    assert engine.holds(B)
    opened(engine, A)
    engine.forward_backward(A, mixed_batch(), IS)


def test_whether_a_model_is_held_is_answered_by_bringing_it_back(tmp_path: Path) -> None:
    engine = opened(opened(engine_with_room_for(1, tmp_path), A), B)
    _flip_a_bit(files(tmp_path)[0])
    assert not engine.holds(A)
    assert not engine.holds(UUID(int=9))


def test_where_the_disk_takes_nothing_the_parked_model_is_dropped_and_the_other_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = opened(opened(engine_with_room_for(1, tmp_path / "file"), A), B)
    engine.forward_backward(B, mixed_batch(), IS)
    assert not engine.holds(A)


# Tiers


def sessions(budget: int | None, host_budget: int, root: Path) -> ResidentSessions:
    return ResidentSessions(CPU, budget, host_budget, SpillFolder(root), lambda session: None)


def a_session(seed: int, dtype: torch.dtype = torch.float32) -> Session:
    """Four buffers of 10 values: 160 bytes, or 320."""
    layout = LoraLayout(("a.lora_A.weight",), ((2, 5),))
    generator = torch.Generator().manual_seed(seed)
    buffers = [torch.randn(10, generator=generator, dtype=dtype) for _ in range(4)]
    return Session(LORA, layout, *buffers, num_steps=seed)


def test_the_one_not_used_for_longest_leaves_first_to_host_and_then_to_disk(tmp_path: Path) -> None:
    held = sessions(320, 160, tmp_path)
    models = [UUID(int=i) for i in range(4)]
    for seed, model in enumerate(models[:2]):
        held.put(model, a_session(seed))
    held.get(models[0])
    held.put(models[2], a_session(2))
    assert (list(held._resident), list(held._on_host)) == ([models[0], models[2]], [models[1]])
    held.put(models[3], a_session(3))
    assert (list(held._resident), list(held._on_host), list(held._on_disk)) == (
        [models[2], models[3]],
        [models[0]],
        [models[1]],
    )
    for seed, model in enumerate(models):
        back, expected = held.get(model), a_session(seed)
        assert all(map(torch.equal, back.buffers().values(), expected.buffers().values()))
        assert (back.num_steps, back.lora, back.layout) == (seed, expected.lora, expected.layout)


def test_a_session_larger_than_every_budget_is_resident_alone(tmp_path: Path) -> None:
    held = sessions(10, 10, tmp_path)
    held.put(A, a_session(0))
    held.put(B, a_session(1, torch.float64))
    assert (list(held._resident), list(held._on_host), list(held._on_disk)) == ([B], [], [A])
    assert held.get(B).weights.dtype == torch.float64


def test_removing_takes_a_session_out_of_every_tier(tmp_path: Path) -> None:
    held = sessions(160, 160, tmp_path)
    for seed, model in enumerate((A, B, C)):
        held.put(model, a_session(seed))
    for model in (A, B, C):
        held.remove(model)
        with pytest.raises(NotFound):
            held.get(model)
    assert not files(tmp_path)


# The folder


def test_values_that_are_not_finite_or_have_a_sign_at_zero_come_back_as_they_were(tmp_path: Path) -> None:
    strange = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf, torch.nan, 1e-45, 3e38, 1.0, -1.0, 2.0])
    written = replace(a_session(0), gradient=strange)
    folder = SpillFolder(tmp_path)
    back = folder.take(folder.write(written), CPU)
    assert back.gradient.view(torch.int32).tolist() == strange.view(torch.int32).tolist()


def test_the_folder_is_private_its_files_are_named_by_nothing_and_it_goes_at_the_end(tmp_path: Path) -> None:
    folder = SpillFolder(tmp_path)
    assert not list(tmp_path.iterdir())
    path = folder.write(a_session(0)).path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert UUID(path.stem).version == 4
    folder.close()
    assert not list(tmp_path.iterdir())


TRAINERS_THAT_END = """
import os, sys
from pathlib import Path

import torch

from trainer.engine.lora_layout import LoraLayout
from trainer.engine.session import Session
from trainer.engine.spill import SpillFolder
from wire.engine import LoraConfig

held = Session(LoraConfig(3, 6), LoraLayout(("a.lora_A.weight",), ((2, 5),)), *torch.zeros(4, 10), num_steps=0)
for how in sys.stdin:
    if os.fork() == 0:
        folder = SpillFolder(Path(sys.argv[1]))
        folder.write(held)
        os._exit(0) if how == "killed\\n" else sys.exit()
    assert os.wait()[1] == 0
    print("ended", flush=True)
"""
"""A process that is forked for each line: to import the engine takes seconds."""


@pytest.fixture
def run_a_trainer_that_is(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    command = [sys.executable, "-c", TRAINERS_THAT_END, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def run(how: str) -> None:
            process.stdin.write(f"{how}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ended\n"

        yield run
        process.stdin.close()


def test_what_a_killed_process_left_behind_goes_and_what_a_live_one_parked_stays(
    tmp_path: Path, run_a_trainer_that_is: Callable[[str], None]
) -> None:
    run_a_trainer_that_is("stopped")
    assert not list(tmp_path.iterdir())
    live = SpillFolder(tmp_path)
    path = live.write(a_session(0)).path
    run_a_trainer_that_is("killed")
    assert len(files(tmp_path)) == 2
    SpillFolder(tmp_path).write(a_session(1))
    assert path in files(tmp_path)
    assert len([p for p in files(tmp_path) if p.parent != path.parent]) <= 1
    live.close()
