from __future__ import annotations

import subprocess
import sys
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
    gradients,
    mixed_batch,
    opened,
    session,
    tiny_engine,
    tiny_model,
)
from trainer.architectures import known_sharing
from trainer.attention import UnsupportedArchitecture
from trainer.base_model import BaseModel, load_base_model
from trainer.engine import TrainingEngine
from trainer.kernels import cascade
from trainer.kernels.cascade import CascadeKernel
from trainer.prefix_tree import Node
from wire.engine import BaseModelInfo, LossChoice


def test_a_saved_model_loads_and_describes_itself(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    engine = TrainingEngine(load_base_model(str(tmp_path)))
    assert engine.info == BaseModelInfo(
        89, 64, "Qwen3ForCausalLM", "float32", model.num_parameters(), engine.info.fingerprint
    )
    opened(engine).forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))


def test_weights_that_are_not_safetensors_are_not_loaded(tmp_path: Path) -> None:
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_base_model(str(tmp_path))


def test_a_low_precision_base_is_trained_by_float32_adapters() -> None:
    base = BaseModel(tiny_model(dtype=torch.bfloat16))
    engine = opened(TrainingEngine(base))
    engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    assert engine.info.dtype == "bfloat16"
    assert {session(engine).weights.dtype, session(engine).gradient.dtype} == {torch.float32}
    assert session(engine).gradient.any()


def test_training_never_changes_the_base() -> None:
    model = tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    engine = opened(TrainingEngine(BaseModel(model)))
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
    engine = opened(TrainingEngine(BaseModel(_experts())))
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


def _blind_to_branches(tree):
    return replace(tree, nodes_M=(Node(0, tree.num_tokens, tree.num_tokens),))


def _wrong_forwards(kernel: CascadeKernel, tree, *rest):
    return RIGHTLY(kernel, _blind_to_branches(tree) if len(tree.nodes_M) > 1 else tree, *rest)


RIGHTLY = CascadeKernel.prepare


def test_a_model_that_shares_prefixes_wrongly_falls_back_to_one_sequence_a_pass() -> None:
    with patch.object(CascadeKernel, "prepare", _wrong_forwards), capture_logs() as logs:
        engine = opened(TrainingEngine(BaseModel(tiny_model())))
        assert engine.info.sharing == "nothing"
        result = engine.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
        assert result.metrics["micro_batches:sum"] == result.num_datums
    assert logs[0]["event"] == "base_model_shares_nothing"
    assert "packed logprobs differ from the model's own by" in logs[0]["reason"]
    honest = opened(tiny_engine())
    honest.forward_backward(MODEL, mixed_batch(), LossChoice("ppo"))
    assert worst_relative_error(gradients(engine), gradients(honest)) < 1e-5


def test_a_wrong_gradient_of_right_logprobs_is_found_when_a_model_loads() -> None:
    backward = cascade._flash_backward

    def without_keys(*args, **kwargs):
        query, key, value = backward(*args, **kwargs)
        return query, torch.zeros_like(key), value

    with (
        patch.object(cascade, "_flash_backward", without_keys),
        pytest.raises(UnsupportedArchitecture, match="Qwen3ForCausalLM: gradients of packed logprobs differ"),
    ):
        BaseModel(tiny_model())


def test_a_model_that_differs_even_alone_is_refused() -> None:
    with (
        patch.object(CascadeKernel, "prepare", lambda self, tree, window, *rest: RIGHTLY(self, tree, 2, *rest)),
        pytest.raises(UnsupportedArchitecture, match="Qwen3ForCausalLM: packed logprobs differ"),
    ):
        BaseModel(tiny_model())


def test_layers_of_an_unknown_kind_share_nothing() -> None:
    model = tiny_model("qwen3-next")
    model.config.layer_types = ["linear_attention", "some_new_attention"]
    assert known_sharing(model) == "nothing"
    assert known_sharing(tiny_model("qwen3-next")) == "prefixes"


def test_models_of_one_shape_share_one_adapter() -> None:
    base = BaseModel(tiny_model())
    assert base.adapter(LORA) is base.adapter(LORA)


def test_importing_the_package_imports_no_torch() -> None:
    program = "import sys, trainer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
