from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.unit.trainer.naive import saved_policy, turn_logprobs
from tests.unit.trainer.tiny import LORA, MODEL, OTHER, mixed_batch, opened, session, tiny_engine, tiny_model
from trainer.engine.engine import TrainingEngine
from wire.engine import AdamParams, LoraConfig, LossChoice
from wire.errors import CorruptCheckpoint


def trained(engine: TrainingEngine, model=MODEL, seed: int = 0, steps: int = 2) -> TrainingEngine:
    for step in range(steps):
        engine.forward_backward(model, mixed_batch(seed + step), LossChoice("importance_sampling"))
        engine.optim_step(model, AdamParams(1e-2))
    return engine


def saved(engine: TrainingEngine, folder: Path) -> tuple[Path, Path]:
    adapter, state = folder / "adapter", folder / "state"
    adapter.mkdir(parents=True)
    state.mkdir()
    engine.snapshot(MODEL).write(adapter, state)
    return adapter, state


def bits(engine: TrainingEngine, model=MODEL) -> list[torch.Tensor]:
    s = session(engine, model)
    return [s.weights, s.gradient, s.exp_avg, s.exp_avg_sq, torch.tensor(s.num_steps)]


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine()))
    adapter, state = saved(engine, tmp_path)
    resumed = tiny_engine()
    resumed.open(MODEL, LORA, adapter, state)
    assert all(map(torch.equal, bits(resumed), bits(engine)))
    trained(engine, seed=7)
    trained(resumed, seed=7)
    assert all(map(torch.equal, bits(resumed), bits(engine)))


def test_an_adapter_without_state_starts_with_fresh_moments(tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine()))
    adapter, _ = saved(engine, tmp_path)
    engine.open(OTHER, LORA, adapter, None)
    weights, gradient, exp_avg, exp_avg_sq, num_steps = bits(engine, OTHER)
    assert torch.equal(weights, session(engine).weights)
    assert not any(tensor.any() for tensor in (gradient, exp_avg, exp_avg_sq, num_steps))


def test_equal_sessions_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(trained(opened(tiny_engine())), tmp_path / name)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert sorted(map(str, files)) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/canary.json",
        "state/state.safetensors",
    ]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_peft_loads_the_adapter_and_computes_the_same(tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine("llama")))
    policy = saved_policy(tiny_model("llama"), engine, tmp_path)
    datum = engine.forward(MODEL, mixed_batch())[0]
    expected = turn_logprobs(policy, mixed_batch().trajectories[0].turns[0])
    assert datum.logprobs[datum.mask == 1].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_target_modules_are_suffixes_of_what_vllm_packs(tmp_path: Path) -> None:
    adapter, _ = saved(opened(tiny_engine()), tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    assert (config["r"], config["lora_alpha"], config["bias"], config["modules_to_save"]) == (3, 6, "none", None)
    names = load_file(adapter / "adapter_model.safetensors")
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in names
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_a_low_precision_base_serves_its_own_dtype_and_keeps_float32_masters(tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine(dtype=torch.bfloat16)))
    adapter, state = saved(engine, tmp_path)
    assert {t.dtype for t in load_file(adapter / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert {t.dtype for t in load_file(state / "state.safetensors").values()} == {torch.float32}
    resumed = tiny_engine(dtype=torch.bfloat16)
    resumed.open(MODEL, LORA, adapter, state)
    assert all(map(torch.equal, bits(resumed), bits(engine)))


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _drop_a_tensor(adapter: Path, state: Path) -> None:
    _rewrite(adapter / "adapter_model.safetensors", lambda tensors: tensors.pop(sorted(tensors)[0]))


def _add_a_tensor(adapter: Path, state: Path) -> None:
    _rewrite(adapter / "adapter_model.safetensors", lambda tensors: tensors.update(x=torch.zeros(1)))


def _reshape_a_tensor(adapter: Path, state: Path) -> None:
    _rewrite(adapter / "adapter_model.safetensors", lambda t: t.update({sorted(t)[0]: torch.zeros(2, 2)}))


def _truncate_the_adapter(adapter: Path, state: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _no_config(adapter: Path, state: Path) -> None:
    (adapter / "adapter_config.json").unlink()


def _config_is_a_list(adapter: Path, state: Path) -> None:
    (adapter / "adapter_config.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [_drop_a_tensor, _add_a_tensor, _reshape_a_tensor, _truncate_the_adapter, _no_config, _config_is_a_list],
)
def test_a_damaged_adapter_is_refused_and_what_was_held_stays(damage, tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine()))
    adapter, state = saved(engine, tmp_path)
    before = [tensor.clone() for tensor in bits(engine)]
    damage(adapter, state)
    with pytest.raises(CorruptCheckpoint, match="adapter_"):
        engine.open(MODEL, LORA, adapter, None)
    assert all(map(torch.equal, bits(engine), before))


def _no_state(path: Path) -> None:
    path.unlink()


def _truncate_the_state(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _state_without_header(path: Path) -> None:
    _rewrite(path, lambda tensors: None)


def _state_without_moments(path: Path) -> None:
    header = _metadata(path)
    save_file({"weights": load_file(path)["weights"]}, path, metadata=header)


def _state_of_another_length(path: Path) -> None:
    header = _metadata(path)
    save_file({name: t[:-1].clone() for name, t in load_file(path).items()}, path, metadata=header)


def _metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize(
    "damage",
    [_no_state, _truncate_the_state, _state_without_header, _state_without_moments, _state_of_another_length],
)
def test_a_damaged_state_is_refused_and_what_was_held_stays(damage, tmp_path: Path) -> None:
    engine = trained(opened(tiny_engine()))
    adapter, state = saved(engine, tmp_path)
    before = [tensor.clone() for tensor in bits(engine)]
    damage(state / "state.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"state\.safetensors"):
        engine.open(MODEL, LORA, adapter, state)
    assert all(map(torch.equal, bits(engine), before))


def test_files_of_another_lora_shape_are_refused(tmp_path: Path) -> None:
    adapter, state = saved(opened(tiny_engine()), tmp_path)
    engine = tiny_engine()
    with pytest.raises(CorruptCheckpoint, match="rank and alpha"):
        engine.open(MODEL, LoraConfig(rank=4, alpha=6), adapter, None)
    with pytest.raises(CorruptCheckpoint, match="its rank"):
        engine.open(MODEL, LoraConfig(rank=4, alpha=6), None, state)


def test_files_of_another_base_are_refused(tmp_path: Path) -> None:
    _, state = saved(opened(tiny_engine()), tmp_path)
    renamed = state / "state.safetensors"
    about = json.loads(_metadata(renamed)["headway"])
    about["layout"][0][0] = "base_model.model.other.lora_A.weight"
    save_file(load_file(renamed), renamed, metadata={"headway": json.dumps(about)})
    with pytest.raises(CorruptCheckpoint, match="its layout"):
        tiny_engine().open(MODEL, LORA, None, state)


def test_a_disk_that_refuses_the_weights_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("trainer.engine.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as refused:
        saved(opened(tiny_engine()), tmp_path)
    assert refused.value.errno == errno.ENOSPC
