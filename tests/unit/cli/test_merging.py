"""Adapters that are merged into their base give what PEFT computes with both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen3Config, Qwen3ForCausalLM

from cli.weights import merging
from cli.weights.adapters import Adapter
from cli.weights.bases import BaseFolder
from cli.weights.merging import merge
from tests.vision.families import FAMILIES, drawn, processor_of, save_vision_family

IDS = torch.tensor([[5, 3, 60, 2, 2, 17, 41, 8]])
SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module", params=["tied", "untied"])
def base(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    is_tied = request.param == "tied"
    config = Qwen3Config(**SHAPE, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=is_tied)
    folder = tmp_path_factory.mktemp("base")
    Qwen3ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("the base's")
    return folder


def adapter_of(base: Path, folder: Path, targets: list[str]) -> Path:
    torch.manual_seed(1)
    lora = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float().log_softmax(-1)


@pytest.mark.parametrize("targets", [ATTENTION, [*ATTENTION, "down_proj", "lm_head"]], ids=["attention", "with head"])
def test_a_merged_model_computes_what_base_and_adapter_do(base: Path, tmp_path: Path, targets: list[str]):
    adapter, out = adapter_of(base, tmp_path / "adapter", targets), tmp_path / "merged"
    out.mkdir()
    merge(BaseFolder(base), Adapter(adapter), out, None)
    expected = logprobs(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert (logprobs(merged) - expected).abs().max() < 1e-5
    assert (expected - logprobs(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.01
    embeddings = (
        merged.get_input_embeddings().weight,
        AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight,
    )
    assert torch.equal(*embeddings)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_sees_is_merged_by_the_names_that_its_files_have(family: Any, tmp_path: Path):
    base, folder, out = (tmp_path / name for name in ("base", "adapter", "merged"))
    save_vision_family(family, base)
    torch.manual_seed(1)
    targets = rf"model\.language_model\..*({'|'.join(ATTENTION)}|down_proj)|lm_head"
    lora = peft.LoraConfig(r=3, lora_alpha=7, target_modules=targets)
    model: Any = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    out.mkdir()
    merge(BaseFolder(base), Adapter(folder), out, None)
    inputs = processor_of(family)(images=[drawn(1)], text=[f"a {family.picture} b"], return_tensors="pt")
    with torch.no_grad():
        merged: Any = AutoModelForImageTextToText.from_pretrained(out)
        found, expected = (each(**inputs).logits.log_softmax(-1) for each in (merged, model))
        with model.disable_adapter():
            before = model(**inputs).logits.log_softmax(-1)
    assert (found - expected).abs().max() < 1e-4
    assert (found - before).abs().max() > 0.1
    assert (out / "preprocessor_config.json").is_file()


def test_shards_pieces_and_another_dtype(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    adapter = Adapter(adapter_of(base, tmp_path / "adapter", ATTENTION))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    merge(BaseFolder(base), adapter, whole, "bfloat16")
    monkeypatch.setattr(merging, "_PIECE", 40)
    merge(BaseFolder(base), adapter, parts, "bfloat16", shard_bytes=4000)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    together = {name: tensor for shard in shards for name, tensor in load_file(parts / shard).items()}
    expected = load_file(whole / "model.safetensors")
    assert together.keys() == expected.keys()
    assert all(torch.equal(together[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in expected.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(parts).dtype == torch.bfloat16
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())


def test_what_does_not_fit_is_refused_with_a_sentence(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter", ATTENTION)
    other = tmp_path / "other"
    Qwen3ForCausalLM(
        Qwen3Config(**{**SHAPE, "hidden_size": 24}, num_attention_heads=2, num_key_value_heads=1)
    ).save_pretrained(other)
    with pytest.raises(ValueError, match="is it the adapter's base"):
        merge(BaseFolder(other), Adapter(adapter), tmp_path, None)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="use_dora"):
        Adapter(adapter)
    with pytest.raises(ValueError, match="no config.json"):
        BaseFolder(tmp_path)
    (other / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no safetensors"):
        BaseFolder(other)


def test_a_quantized_weight_is_not_merged_into(base: Path, tmp_path: Path):
    adapter = adapter_of(base, tmp_path / "adapter", ATTENTION)
    folder = tmp_path / "quantized"
    folder.mkdir()
    (folder / "config.json").write_text((base / "config.json").read_text())
    with safe_open(base / "model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    tensors = {name: tensor.to(torch.int8) if "q_proj" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="not quantized"):
        merge(BaseFolder(folder), Adapter(adapter), tmp_path, None)
