from __future__ import annotations

import gc
import weakref
from unittest.mock import patch

import pytest
import torch

from tests.unit.trainer.tiny import MODEL, BatchEngine, deep_batch, gradients, mixed_batch, opened, session, tiny_model
from trainer.engine import recomputation
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.recomputation import saved_bytes
from wire.conversion import to_datums
from wire.engine import LossChoice
from wire.plans import FUSED_LORA, PEFT_LORA


def engine_with(max_activation_bytes: int | None, architecture: str = "qwen3") -> BatchEngine:
    settings = EngineSettings(max_activation_bytes=max_activation_bytes, threads=1)
    return opened(BatchEngine(BaseModel(tiny_model(architecture)), settings))


@pytest.mark.parametrize("architecture", ["qwen3", "mistral with a window of 5", "qwen3 with experts", "qwen3-next"])
def test_recomputing_changes_no_bit(architecture: str) -> None:
    keeping, recomputing = engine_with(1 << 40, architecture), engine_with(1, architecture)
    for engine in (keeping, recomputing):
        for batch in (mixed_batch(), deep_batch()):
            engine.forward_backward(MODEL, batch, LossChoice("ppo", {"kl_penalty_coef": 0.1}))
    expected = gradients(keeping)
    assert all(torch.equal(found, expected[name]) for name, found in gradients(recomputing).items())


def test_what_was_counted_is_freed() -> None:
    made = list[weakref.ref[torch.Tensor]]()

    def run() -> torch.Tensor:
        exponential = torch.ones(3, requires_grad=True).exp()  # which keeps its own output
        made.append(weakref.ref(exponential))
        return exponential.sum()

    assert saved_bytes(run) == 12
    gc.collect()
    assert made[0]() is None


def test_recomputing_keeps_an_input_a_layer_and_not_much_else() -> None:
    base = BaseModel(tiny_model())
    base.bind(session(opened(BatchEngine(base))))
    pack = base.pack(to_datums(mixed_batch()))
    kept, recomputed = (saved_bytes(lambda on=on: base.logprobs(pack, recompute=on)[0]) for on in (False, True))
    assert recomputed < kept / 5


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3 with experts"])
def test_what_a_pass_would_keep_is_foreseen(architecture: str) -> None:
    base = BaseModel(tiny_model(architecture))
    base.bind(session(opened(BatchEngine(base))))
    pack = base.pack(to_datums(mixed_batch()))
    kept = saved_bytes(lambda: base.logprobs(pack)[0])
    base.measure_activations()
    with torch.no_grad():
        assert base.activation_bytes(pack) == pytest.approx(kept, rel=0.2)


def test_what_a_pass_by_pefts_forward_would_keep_is_foreseen_after_one_by_the_fused() -> None:
    base = BaseModel(tiny_model(dtype=torch.bfloat16))
    base.bind(session(opened(BatchEngine(base))))
    pack = base.pack(to_datums(mixed_batch()))
    for lora in (FUSED_LORA, PEFT_LORA):
        with base.computing_by("cascade", lora, base.head_rows, base.products):
            kept = saved_bytes(lambda: base.logprobs(pack)[0])
            base.measure_activations()
            assert base.activation_bytes(pack) == pytest.approx(kept, rel=0.2)


def test_a_forward_without_gradient_recomputes_nothing_and_does_not_switch_it_off() -> None:
    with patch.object(recomputation, "checkpoint", wraps=recomputation.checkpoint) as spy:
        engine = engine_with(1)
        engine.forward(MODEL, deep_batch())
        assert spy.call_count == 0
        engine.forward_backward(MODEL, deep_batch(), LossChoice("ppo"))
        assert spy.call_count == tiny_model().config.num_hidden_layers


def test_hybrids_foresee_what_their_mixers_keep() -> None:
    base = BaseModel(tiny_model("qwen3-next"))
    base.bind(session(opened(BatchEngine(base))))
    pack = base.pack(to_datums(deep_batch()))
    kept = saved_bytes(lambda: base.logprobs(pack)[0])
    base.measure_activations()
    assert kept < base.activation_bytes(pack) < 5 * kept
