from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.unit.trainer.naive import worst_relative_error
from tests.unit.trainer.tiny import (
    _SHAPE,
    LORA,
    MODEL,
    BatchEngine,
    gradients,
    mixed_batch,
    opened,
    session,
    tiny_engine,
    tiny_model,
)
from trainer.engine.architectures import known_sharing
from trainer.engine.attention import UnsupportedArchitecture
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.kernels import Kernel, cascade
from trainer.engine.kernels.cascade import CascadeKernel
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.prefix_tree import Node
from wire.engine import BaseModelInfo, LossChoice


def test_a_saved_model_loads_and_describes_itself(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    engine = BatchEngine(load_base_model(str(tmp_path)))
    layers = {
        "attn": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "mlp": ["down_proj", "gate_proj", "up_proj"],
        "unembed": ["lm_head"],
    }
    described = BaseModelInfo(89, 64, "Qwen3ForCausalLM", "float32", model.num_parameters(), engine.info.fingerprint)
    assert engine.info == replace(described, lora_layers=layers)
    opened(engine).forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))


def test_weights_that_are_not_safetensors_are_not_loaded(tmp_path: Path) -> None:
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_base_model(str(tmp_path))


def test_a_low_precision_base_is_trained_by_float32_adapters() -> None:
    base = BaseModel(tiny_model(dtype=torch.bfloat16))
    engine = opened(BatchEngine(base))
    engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    assert engine.info.dtype == "bfloat16"
    assert {session(engine).weights.dtype, session(engine).gradient.dtype} == {torch.float32}
    assert session(engine).gradient.any()


def test_training_never_changes_the_base() -> None:
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    engine = opened(BatchEngine(BaseModel(model)))
    engine.forward_backward(MODEL, mixed_batch(), LossChoice("cross_entropy"))
    after = {name.replace(".base_layer", ""): p for name, p in model.named_parameters() if ".lora_" not in name}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _shape(**extra: object) -> dict[str, object]:
    return {**_SHAPE, **extra}


def _experts() -> PreTrainedModel:
    shape = _shape(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape))


def test_routers_and_the_unembedding_get_no_adapter() -> None:
    engine = opened(BatchEngine(BaseModel(_experts())))
    names = session(engine).layout.names
    assert {name.split(".")[-3] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo")).num_datums == 8


REFUSED = {
    "final_logit_softcapping": lambda: Gemma2ForCausalLM(Gemma2Config(**_shape(attn_logit_softcapping=None))),
    "softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**_shape(final_logit_softcapping=None))),
    "logit_scale": lambda: Cohere2ForCausalLM(Cohere2Config(**_shape())),
    "s_aux": lambda: GptOssForCausalLM(GptOssConfig(**_shape(num_local_experts=2, num_experts_per_tok=1))),
    "not causal|no linear layer": lambda: BertLMHeadModel(
        BertConfig(vocab_size=89, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8)
    ),
}


@pytest.mark.parametrize("term", REFUSED)
def test_an_architecture_that_would_be_computed_wrongly_is_refused_by_name(term: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=term):
        BaseModel(REFUSED[term]().eval())


def _blind_to_branches(kernel: type[Kernel]) -> AbstractContextManager[object]:
    """The kernel takes what is packed for one sequence."""
    rightly = kernel.prepare

    def prepare(self, tree, *rest):
        return rightly(self, replace(tree, nodes_M=(Node(0, tree.num_tokens, tree.num_tokens),)), *rest)

    return patch.object(kernel, "prepare", prepare)


def _near_sighted(kernel: type[Kernel]) -> AbstractContextManager[object]:
    rightly = kernel.prepare
    return patch.object(kernel, "prepare", lambda self, tree, window, *rest: rightly(self, tree, 2, *rest))


def _loaded() -> tuple[BatchEngine, list[str]]:
    with capture_logs() as logs:
        engine = opened(BatchEngine(BaseModel(tiny_model())))
    return engine, [f"{log['kernel']} {log['sharing']} {log['reason']}" for log in logs]


def test_a_kernel_that_computes_wrongly_is_not_used() -> None:
    with _blind_to_branches(CascadeKernel):
        engine, reasons = _loaded()
    assert engine.info.sharing == "prefixes"
    assert isinstance(engine._base._kernel, DenseKernel)
    assert [reason[:60] for reason in reasons] == ["CascadeKernel prefixes packed logprobs differ from the model"]


def test_a_wrong_gradient_of_right_logprobs_is_found_when_a_model_loads() -> None:
    backward = cascade._flash_backward

    def without_keys(*args, **kwargs):
        query, key, value = backward(*args, **kwargs)
        return query, torch.zeros_like(key), value

    with patch.object(cascade, "_flash_backward", without_keys):
        engine, reasons = _loaded()
    assert isinstance(engine._base._kernel, DenseKernel)
    assert "gradients of packed logprobs differ" in reasons[0]


def test_a_model_that_cannot_share_prefixes_trains_one_sequence_a_pass() -> None:
    with _blind_to_branches(CascadeKernel), _blind_to_branches(DenseKernel):
        engine, reasons = _loaded()
        assert engine.info.sharing == "nothing"
        assert len(reasons) == 2
        result = engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    assert result.metrics["micro_batches:sum"] == result.num_datums
    honest = opened(tiny_engine())
    honest.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    assert worst_relative_error(gradients(engine), gradients(honest)) < 1e-5


def test_a_model_that_differs_even_alone_is_refused() -> None:
    with (
        _near_sighted(CascadeKernel),
        _near_sighted(DenseKernel),
        pytest.raises(UnsupportedArchitecture, match="Qwen3ForCausalLM: packed logprobs differ"),
    ):
        BaseModel(tiny_model())


def test_a_model_that_fails_under_packed_attention_is_refused_with_the_reason() -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("heads of another size")

    with (
        patch.object(CascadeKernel, "attend", fails),
        patch.object(DenseKernel, "attend", fails),
        pytest.raises(UnsupportedArchitecture, match="packed computation fails: heads of another size"),
    ):
        BaseModel(tiny_model())


def test_layers_of_an_unknown_kind_share_nothing() -> None:
    model = tiny_model("qwen3-next")
    model.config.layer_types = ["linear_attention", "some_new_attention"]
    assert known_sharing(model) == "nothing"
    assert known_sharing(tiny_model("qwen3-next")) == "prefixes"


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_rotary_angles_of_the_longest_sequence_are_not_given_to_others(architecture: str) -> None:
    config = deepcopy(tiny_model(architecture).config)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    nested = architecture == "gemma3"
    config.rope_parameters = {"full_attention": rope} if nested else rope
    model = tiny_model(architecture)
    model.config = config
    assert known_sharing(model) == "nothing"


def test_a_base_without_linear_layers_is_refused() -> None:
    shape = {"vocab_size": 89, "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 64}
    with pytest.raises(UnsupportedArchitecture, match="gpt2 has no linear layers"):
        BaseModel(GPT2LMHeadModel(GPT2Config(**shape)).eval())


def test_models_of_one_shape_share_one_adapter() -> None:
    base = BaseModel(tiny_model())
    assert base.adapter(LORA) is base.adapter(LORA)


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, trainer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
