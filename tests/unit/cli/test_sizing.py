"""What `headway sizing` counts without weights is what the engine holds with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config, Qwen3NextConfig

from cli.sizing import counting
from cli.sizing.base_counts import BaseCounts, numel
from cli.sizing.counting import config_of, count_base, count_preset
from cli.sizing.sampler_memory import sampler_memory, smallest
from cli.sizing.trainer_memory import trainer_memory
from tests.unit.cli.test_tables import ended, printed
from tests.unit.trainer.tiny import datum_of
from tests.vision.families import FAMILIES, make_vision_model
from trainer.distributed.sharding import shard_base
from trainer.engine.base_memory import base_bytes
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from trainer.engine.recomputation import saved_bytes
from trainer.engine.session import Session
from trainer.engine.vision.families import loader_of
from trainer.engine.vision.sight import MAX_FEATURE_BYTES
from wire.engine import LoraConfig

RANK = 5
_SHAPE = {
    "vocab_size": 89,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "qwen3": Qwen3Config(**_SHAPE, tie_word_embeddings=True),
    "llama": LlamaConfig(**_SHAPE, tie_word_embeddings=False),
    "windows": Qwen3Config(
        **_SHAPE,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        use_sliding_window=True,
        sliding_window=64,
    ),
}
CONFIGS |= {name: make_vision_model(family).config for name, family in FAMILIES.items()}
EACH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
OF_EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


_COUNTED: dict[tuple[int, torch.dtype], BaseCounts] = {}


def counts_of(config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16) -> BaseCounts:
    """Of one of the configs above, each of which is counted once for all tests."""
    key = id(config), dtype
    return _COUNTED.get(key) or _COUNTED.setdefault(key, count_base("tiny", config, RANK, dtype))


_WHOLE: dict[tuple[int, torch.dtype], torch.nn.Module] = {}


def whole(config: PreTrainedConfig, dtype: torch.dtype) -> torch.nn.Module:
    """The model of one of the configs above, without an adapter, which nobody may change."""
    key = id(config), dtype
    return _WHOLE.get(key) or _WHOLE.setdefault(key, built(config, dtype))


def built(config: PreTrainedConfig, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return loader_of(config).from_config(config, dtype=dtype).eval()


def opened(config: PreTrainedConfig, dtype: torch.dtype) -> tuple[BaseModel, Session]:
    base, lora = BaseModel(built(config, dtype)), LoraConfig(rank=RANK)
    layout = base.adapter(lora).layout
    session = Session.starting_from(lora, layout, layout.fresh_weights(0).to(base.dtype))
    base.bind(session)
    return base, session


def bytes_of(tensors: Iterator[torch.Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@EACH
@OF_EACH
def test_weights_and_adapters_have_the_bytes_that_were_counted(config: PreTrainedConfig, dtype: torch.dtype):
    counts = counts_of(config, dtype)
    memory = trainer_memory(counts, ranks=1, rank=RANK, num_shards=8, gpu=10**9)
    model = whole(config, dtype)
    weights = bytes_of(model.parameters())
    assert weights == counts.num_parameters * dtype.itemsize
    base, session = opened(config, dtype)
    assert memory.base == weights
    assert (memory.model, memory.gathered) == (session.num_bytes, 0)
    assert memory.partial_sums == 2 * base.bind(session).scratch_gradient.nbytes


@EACH
@OF_EACH
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_trainer_refuses_by_the_bytes_that_were_counted(config: PreTrainedConfig, dtype: torch.dtype, ranks: int):
    memory = trainer_memory(counts_of(config, dtype), ranks=ranks, rank=RANK, num_shards=8, gpu=10**9)
    assert memory.base + memory.gathered == base_bytes(whole(config, dtype), ranks)


def kept_bytes(base: BaseModel, length: int, *, recompute: bool) -> int:
    pack = base.pack([datum_of([3] * (length + 1), 1)])
    return saved_bytes(lambda: base.logprobs(pack, recompute=recompute)[0])


@EACH
@OF_EACH
def test_a_pass_keeps_the_bytes_that_were_counted(config: PreTrainedConfig, dtype: torch.dtype):
    counted = counts_of(config, dtype).activations
    base, _ = opened(config, dtype)
    # Cosines and sines of positions reach layers that are computed again as they are: no hook sees them kept.
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    unseen = 2 * head_dim * dtype.itemsize * (2 if text.model_type == "gemma3_text" else 1)  # it has two kinds
    for recompute, expected in ((False, counted.kept), (True, counted.recomputed - unseen)):
        short, long = (kept_bytes(base, length, recompute=recompute) for length in (72, 136))
        # Ids, indices; and a base that sees may keep its positions otherwise.
        off = {"rel": 0.05} if text is not config else {"abs": 16}
        assert (long - short) / 64 == pytest.approx(expected + counted.prediction, **off)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_rank_holds_the_rows_that_were_counted(ranks: int):
    counts = counts_of(CONFIGS["llama"], torch.float32)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        model = built(CONFIGS["llama"], torch.float32)
        shard_base(model, torch.device("cpu"))
        held = [p._local_tensor if isinstance(p, DTensor) else p for p in model.parameters()]
        assert [name for name, p in model.named_parameters() if not isinstance(p, DTensor)] == ["model.norm.weight"]
        assert bytes_of(iter(held)) == 4 * counts.rank_parameters(ranks)
    finally:
        dist.destroy_process_group()


def test_more_ranks_hold_less_of_the_base_and_of_the_shards():
    counts = count_preset("qwen3-8b", 32)
    assert (counts.num_parameters, counts.lora_parameters(32)) == (8_190_735_360, 87_293_952)
    num_shards = EngineSettings().max_shards
    one, two, eight = (
        trainer_memory(counts, ranks=n, rank=32, num_shards=num_shards, gpu=141 * 10**9) for n in (1, 2, 8)
    )
    assert eight.base == pytest.approx(one.base / 8, rel=1e-3), "nothing but the last norm is whole"
    assert [each.partial_sums // (4 * 87_293_952) for each in (one, two, eight)] == [2, 5, 2]
    assert one.left < two.left < eight.left
    assert one.longest > 20 * one.pass_tokens, "layers that are computed twice keep their inputs alone"


def test_tokens_within_some_bytes_are_the_most_that_fit():
    activations = counts_of(CONFIGS["qwen3"]).activations
    for recompute in (False, True):
        fit = activations.tokens_within(1e8, recompute=recompute)
        assert activations.of_pass(fit, recompute=recompute) <= 1e8 < activations.of_pass(fit + 1, recompute=recompute)
    assert activations.tokens_within(1.0, recompute=True) == 0


def test_vllm_splits_weights_and_the_side_of_an_adapter_that_faces_the_split():
    counts = counts_of(CONFIGS["llama"], torch.float32)
    one, four = (sampler_memory(counts, ranks=n, rank=8, slots=2, gpu=10**9) for n in (1, 4))
    assert (one.base, four.base) == (4 * counts.num_parameters, counts.num_parameters)
    assert (one.key_values, four.key_values) == (3 * 2 * 2 * 16 * 4, 3 * 2 * 1 * 16 * 4), "two heads, on two ranks each"
    by_outputs = [(32, 64), (32, 32), (32, 32), (32, 56), (32, 56)]
    by_inputs = [(64, 32), (56, 32)]
    split = sum(i + o // 4 for i, o in by_outputs) + sum(i // 4 + o for i, o in by_inputs)
    assert four.adapters == 2 * 8 * 4 * (3 * split + 89 + 32)
    assert smallest([one, four], one.cached_tokens) == one
    assert smallest([one, four], one.cached_tokens + 1) == four
    assert smallest([one, four], 10**9) is None


def test_a_base_that_fits_no_gpu_has_no_tokens():
    counts = replace(counts_of(CONFIGS["qwen3"]), layers=[[(10**6, 10**6)]])
    assert trainer_memory(counts, ranks=8, rank=8, num_shards=8, gpu=10**9).longest == 0
    assert sampler_memory(counts, ranks=8, rank=8, slots=1, gpu=10**9).cached_tokens == 0


def test_the_command_prints_sizes_of_a_folder_and_of_a_preset(tmp_path: Path):
    CONFIGS["qwen3"].save_pretrained(tmp_path)
    found = json.loads(
        printed("utf-8", "sizing", "--base", str(tmp_path), "--base", "qwen3-32b", "--gpus", "4", "--json")
    )
    assert [each["parameters"] for each in found["bases"]] == [numel_of(CONFIGS["qwen3"]), 32_762_123_264]
    (tiny, large) = found["trainers"]
    assert tiny["ranks"] == large["ranks"] == 4
    assert 80_000 < large["longest_trajectory"] < 100_000
    lines = printed("utf-8", "sizing", "--base", "llama-3.3-70b", "--gpus", "1", "--gpus", "8").splitlines()
    assert [line.split("\t")[-1] for line in lines if line.startswith("llama-3.3-70b\t1\t")] == ["does not fit"]
    assert lines[2].split("\t")[:3] == ["llama-3.3-70b", "70.55 billion", "414 million"]


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [("empty", "config.json"), ("hybrid", "has layers of linear attention")],
)
def test_a_base_that_cannot_be_counted_is_refused(folder: str, sentence: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    hybrid = Qwen3NextConfig(**_SHAPE, layer_types=["linear_attention", "full_attention", "full_attention"])
    hybrid.save_pretrained(tmp_path / "hybrid")
    status, said = ended("sizing", "--base", str(tmp_path / folder))
    assert status == 1
    assert sentence in said


def numel_of(config: PreTrainedConfig) -> int:
    return sum(numel(tuple(p.shape)) for p in whole(config, torch.float32).parameters())


def test_counts_of_presets_are_those_that_their_names_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "_activations", lambda *_: None)  # which take 1.5 s each, and are not asked for
    expected = {"qwen3-4b": 4.02, "qwen3-8b": 8.19, "qwen3-32b": 32.76, "qwen3-vl-8b": 8.77, "llama-3.3-70b": 70.55}
    assert {name: round(count_of(name).num_parameters / 1e9, 2) for name in expected} == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_what_reads_pictures_is_whole_on_each_rank_of_a_trainer(name: str):
    counts, text = (counts_of(config) for config in (CONFIGS[name], CONFIGS["llama"]))
    memory = trainer_memory(counts, ranks=8, rank=RANK, num_shards=8, gpu=10**10)
    towers = [
        p
        for path, p in make_vision_model(FAMILIES[name]).named_parameters()
        if re.search(r"visual|vision|multi_modal", path)
    ]
    assert counts.tower == sum(parameter.numel() for parameter in towers)
    assert memory.base > counts.tower * counts.weight_bytes
    assert memory.features == MAX_FEATURE_BYTES
    assert trainer_memory(text, ranks=8, rank=RANK, num_shards=8, gpu=10**10).features == 0


def count_of(name: str) -> BaseCounts:
    return count_base(name, config_of(name), 8)
