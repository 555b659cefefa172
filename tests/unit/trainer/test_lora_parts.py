"""Adapters of some parts of a base: attention, MLP, unembedding, each with the others or alone."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from tests.unit.trainer.naive import naive_pass, saved_policy, worst_relative_error
from tests.unit.trainer.tiny import (
    ARCHITECTURES,
    LORA,
    MODEL,
    OTHER,
    deep_batch,
    gradients,
    mixed_batch,
    norms_in_their_own_dtype,
    opened,
    session,
    tiny_engine,
    tiny_model,
)
from trainer.engine.canary import compute_canary, may_overflow
from wire.engine import AdamParams, LoraConfig, LossChoice
from wire.errors import CorruptCheckpoint, InvalidRequest

ATTN = replace(LORA, mlp=False)
MLP = replace(LORA, attn=False)
HEAD = LoraConfig(rank=2, alpha=5, attn=False, mlp=False, unembed=True)
ALL = replace(LORA, unembed=True)
PARTS = {"attn": ATTN, "mlp": MLP, "head": HEAD, "all": ALL, "attn and head": replace(ATTN, unembed=True)}
LOSS = LossChoice("importance_sampling")


@pytest.mark.parametrize("parts", PARTS)
def test_float64_gradients_of_each_part_equal_naive_ones(parts: str, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(dtype=torch.float64), lora=PARTS[parts])  # its embeddings are tied
        for batch in (mixed_batch(), deep_batch()):
            session(engine).gradient.zero_()
            result = engine.forward_backward(MODEL, batch, LOSS)
            base = tiny_model(dtype=torch.float64)
            cost, expected = naive_pass(base, engine, batch, LOSS.name, tmp_path / str(batch.group_size))
            assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
            assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("architecture", ["llama", "gemma", "qwen3.5", "qwen3 with experts"])
def test_all_parts_are_exact_on_other_architectures(architecture: str, tmp_path: Path) -> None:
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(architecture, torch.float64), lora=ALL)
        engine.forward_backward(MODEL, deep_batch(), LOSS)
        _, expected = naive_pass(tiny_model(architecture, torch.float64), engine, deep_batch(), LOSS.name, tmp_path)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


def test_a_penalty_towards_the_base_leaves_the_unembeddings_update_out(tmp_path: Path) -> None:
    options = {"kl_penalty_coef": 0.3}
    with norms_in_their_own_dtype():
        engine = opened(tiny_engine(dtype=torch.float64), lora=ALL)
        result = engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo", options))
        base = tiny_model(dtype=torch.float64)
        cost, expected = naive_pass(base, engine, mixed_batch(), "ppo", tmp_path, options=options)
    assert result.metrics["loss:sum"] == pytest.approx(cost, rel=1e-12)
    assert worst_relative_error(gradients(engine), expected) <= 1e-12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_are_disjoint_and_attention_and_mlp_are_what_is_adapted_by_default(architecture: str) -> None:
    engine = tiny_engine(architecture)
    layouts = [set(engine._base.adapter(lora).layout.names) for lora in (ATTN, LORA, replace(LORA, unembed=True))]
    attn, both, everything = layouts
    assert attn <= both < everything
    assert {name.split(".")[2] for name in everything - both} == {"lm_head"}
    assert all("attn" in name for name in attn)
    assert not any("attn" in name for name in both - attn)


def test_adapters_of_other_parts_end_in_the_bits_they_have_alone() -> None:
    """They lie on one base, and each switches the layers of the others off."""
    models = {name: UUID(int=100 + number) for number, name in enumerate(PARTS)}
    together = tiny_engine()
    for name, lora in PARTS.items():
        opened(together, models[name], lora=lora)
    for seed in range(2):
        for name in PARTS:
            together.forward_backward(models[name], mixed_batch(seed), LOSS)
            together.optim_step(models[name], AdamParams(1e-2))
    for name, lora in PARTS.items():
        alone = opened(tiny_engine(), lora=lora)
        for seed in range(2):
            alone.forward_backward(MODEL, mixed_batch(seed), LOSS)
            alone.optim_step(MODEL, AdamParams(1e-2))
        assert torch.equal(session(alone).weights, session(together, models[name]).weights), name


def test_to_go_from_shape_to_shape_touches_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own way goes through every adapter of every layer, and takes as long as there are shapes."""
    engine, penalty = tiny_engine(), LossChoice("ppo", {"kl_penalty_coef": 0.1})
    for number, lora in enumerate((ATTN, ALL)):
        opened(engine, UUID(int=number), lora=lora).forward_backward(UUID(int=number), mixed_batch(), LOSS)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("each layer was switched")

    for name in ("set_adapter", "enable_adapters"):
        monkeypatch.setattr(LoraLayer, name, refuse)
    for number in (0, 1, 0):
        engine.forward_backward(UUID(int=number), mixed_batch(), penalty)


def test_a_shape_that_no_model_has_keeps_no_memory() -> None:
    engine = opened(tiny_engine(), OTHER, lora=ALL)
    opened(engine).forward_backward(OTHER, mixed_batch(), LOSS)
    engine.forward_backward(MODEL, mixed_batch(), LOSS)
    held = session(engine, OTHER)
    layers = engine._base.adapter(ALL)
    buffers = [weakref.ref(buffer) for buffer in (layers.scratch_gradient, held.weights, held.gradient)]
    del held
    engine.close(OTHER)
    assert [buffer() for buffer in buffers] == [None] * 3
    assert sum(p.untyped_storage().nbytes() for p in layers._parameters) < 8 * len(layers._parameters)
    opened(engine, OTHER, lora=ALL).forward_backward(OTHER, mixed_batch(), LOSS)


@pytest.mark.parametrize("parts", PARTS)
def test_a_checkpoint_of_parts_comes_back_and_is_one_of_pefts(parts: str, tmp_path: Path) -> None:
    engine, lora = opened(tiny_engine(), lora=PARTS[parts]), PARTS[parts]
    policy = saved_policy(tiny_model(), engine, tmp_path)
    canary = json.loads((tmp_path / "adapter" / "canary.json").read_text())
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([canary["token_ids"][:-1]])).logits[0]
    best = logits.log_softmax(-1).max(-1)
    assert best.indices.tolist() == canary["greedy_ids"]
    assert best.values.tolist() == pytest.approx(canary["logprobs"], abs=1e-4)
    other = tiny_engine()
    for adapter, state in ((tmp_path / "adapter", tmp_path / "state"), (tmp_path / "adapter", None)):
        other.open(MODEL, lora, adapter, state)
        assert torch.equal(session(other).weights, session(engine).weights)


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    saved_policy(tiny_model(), opened(tiny_engine(), lora=ATTN), tmp_path)
    with pytest.raises(CorruptCheckpoint, match="expected"):
        tiny_engine().open(MODEL, LORA, tmp_path / "adapter", None)


def test_an_update_of_the_unembedding_alone_shows_in_the_canary() -> None:
    engine = opened(tiny_engine(), lora=HEAD)
    engine.open(OTHER, HEAD, None, None)
    assert compute_canary(engine._base, session(engine)) != compute_canary(engine._base, session(engine, OTHER))


def test_the_bound_that_spares_a_forward_knows_the_scale() -> None:
    engine = opened(tiny_engine(), lora=LoraConfig(rank=1, alpha=3200, unembed=True))
    held = session(engine)
    held.weights = torch.full_like(held.weights, 99.0)
    assert not may_overflow(engine._base, held)
    held.weights = torch.full_like(held.weights, 101.0)
    assert may_overflow(engine._base, held)


def test_a_pass_keeps_nothing_of_the_vocabularys_size_for_each_token() -> None:
    bytes_per_token = {}
    for name, lora in (("frozen", LORA), ("trained", ALL)):
        engine = opened(tiny_engine(), lora=lora)
        base = engine._base
        base.bind(session(engine))
        base.measure_activations()
        (datum, *_) = engine.datums(mixed_batch())
        bytes_per_token[name] = base.activation_bytes(base.pack([datum])) / datum.num_tokens
    assert bytes_per_token["trained"] - bytes_per_token["frozen"] < 89 * 4


def test_no_part_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="attn, mlp and unembed are all false"):
        tiny_engine().open(MODEL, LoraConfig(attn=False, mlp=False), None, None)


def test_a_part_that_the_base_lacks_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="no linear layers for LoRA on mlp"):
        tiny_engine("qwen3 with experts").open(MODEL, MLP, None, None)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3.5", "qwen3 with experts", "qwen3-next"])
def test_a_base_says_which_parts_lora_adapts_as_a_whole(architecture: str) -> None:
    parts = set(tiny_engine(architecture).info.adapted_parts)
    has_experts = architecture in ("qwen3 with experts", "qwen3-next")
    assert parts == {"attn", "unembed", *(() if has_experts else ("mlp",))}


def test_what_a_peft_model_of_all_parts_says_is_what_the_engine_says(tmp_path: Path) -> None:
    engine, batch = opened(tiny_engine(), lora=LoraConfig(rank=32, alpha=32, unembed=True)), mixed_batch()
    saved_policy(tiny_model(), engine, tmp_path)
    policy = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    (datum, *_) = engine.datums(batch)
    scored = engine.forward(MODEL, batch)[0]
    with torch.no_grad():
        logits = policy(input_ids=torch.from_numpy(datum.model_input.ids).long()[None]).logits[0].log_softmax(-1)
    expected = logits[torch.from_numpy(datum.positions), torch.from_numpy(datum.targets).long()].numpy()
    np.testing.assert_allclose(scored.logprobs[datum.positions], expected, atol=1e-5)
