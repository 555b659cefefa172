"""Packed linear layers give what they gave, and keep no second copy of their weights."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from sampler.backends.local.packed_linears import pack_linears
from wire.process.onednn import CACHES

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


def _model(*, tied: bool) -> Qwen3ForCausalLM:
    shape: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "head_dim": 12,
        "vocab_size": 101,
    }
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = Qwen3Config(**shape, **heads, attention_bias=True, tie_word_embeddings=tied)
    return Qwen3ForCausalLM(config).eval().requires_grad_(False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 7, 40])
def test_a_packed_model_has_the_same_logits(tied: bool, num_tokens: int):
    model = _model(tied=tied)
    ids = torch.arange(num_tokens)[None]
    expected = model(ids).logits
    pack_linears(model)
    assert torch.allclose(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_embedding_keeps_its_weights(tied: bool):
    model = _model(tied=tied)
    pack_linears(model)
    sizes = {name: module.weight.numel() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    kept = {name for name, size in sizes.items() if size}
    assert kept == ({"lm_head"} if tied else set())
    assert model.get_input_embeddings().weight.shape == (101, 48)


def test_hooks_still_see_what_goes_in_and_out():
    model, seen = _model(tied=True), list[torch.Size]()
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    layer.register_forward_hook(lambda _module, args, output: seen.append(output.shape))
    pack_linears(model)
    model(torch.arange(3)[None])
    assert seen == [torch.Size([1, 3, 80])]


def test_layers_of_another_dtype_are_left_alone():
    linear = nn.Linear(8, 8, dtype=torch.bfloat16)
    model = nn.Sequential(linear)
    before = copy.deepcopy(linear.weight)
    pack_linears(model)
    assert torch.equal(linear.weight, before)
    assert "forward" not in vars(linear)


_STEPS_OF_MANY_LENGTHS = """
import psutil, torch
from sampler.backends.local.packed_linears import NUM_KERNELS, pack_linears
from wire.process.onednn import keep_few_kernels

keep_few_kernels(NUM_KERNELS)
layers = torch.nn.ModuleList(torch.nn.Linear(64, size) for size in (64, 96, 128))
torch.set_num_threads(1)
pack_linears(layers)
before = psutil.Process().memory_info().rss
with torch.inference_mode():
    for num_rows in range(1, 1000):
        for layer in layers:
            layer(torch.ones(num_rows, 64))
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def test_steps_of_many_lengths_leave_few_kernels_behind():
    """Without a bound 736 MiB, with one 195: the limits are read once a process, so this is one of its own."""
    command = [sys.executable, "-c", _STEPS_OF_MANY_LENGTHS]
    own = {name: value for name, value in os.environ.items() if name not in CACHES}  # set by backends of other tests
    grown_mib = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=own).stdout)
    assert grown_mib < 400
