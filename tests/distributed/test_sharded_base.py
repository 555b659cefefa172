"""A base whose layers several ranks hold computes what the whole one does, whatever is raised on one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count, product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, HrmTextConfig, HrmTextForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.distributed.processes import RankFailed, RankProcesses
from tests.distributed.training import with_two_targets
from tests.unit.trainer.tiny import _SHAPE, LORA, deep_batch, mixed_batch, tiny_model
from trainer.distributed import sharding
from trainer.distributed.group import RankGroup
from trainer.distributed.layer_gathers import LayerGathers
from trainer.distributed.loading import load_sharded_base
from trainer.distributed.sharding import shard_base
from trainer.distributed.vocabulary_blocks import ShardedRows
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.kernels import cascade
from trainer.engine.session import Session
from wire.conversion import to_datums
from wire.engine import LoraConfig
from wire.errors import DeviceLost
from wire.plans import FUSED_LORA

NUM_LAYERS = 4
NUM_BLOCKS = 3
FAMILIES = ["qwen3", "gemma3", "qwen3 with experts", "qwen3-next"]
SHAPES = [LORA, LoraConfig(rank=2, alpha=4, mlp=False), LoraConfig(rank=3, alpha=6, unembed=True)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of each family, of some in several; and of a base with more layers."""
    folder = tmp_path_factory.mktemp("bases")
    for architecture in FAMILIES:
        tiny_model(architecture).save_pretrained(folder / architecture, max_shard_size="1MB")
    tiny_model("llama").save_pretrained(folder / "in several files", max_shard_size="20KB")
    _deep().save_pretrained(folder / "deep")
    return folder


@pytest.fixture(scope="module")
def one_rank() -> Iterator[RankProcesses]:
    ranks = RankProcesses(1)
    yield ranks
    ranks.close()


def _deep() -> Qwen3ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(Qwen3Config(**{**_SHAPE, "num_hidden_layers": NUM_LAYERS}, tie_word_embeddings=True))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25 if parameter.dim() > 1 else 1.0)
        return model


def test_shards_and_all_that_is_computed_with_them_are_equal_to_the_bit(two_ranks: RankProcesses, bases: Path) -> None:
    for architecture in [*FAMILIES, "in several files"]:
        two_ranks.run(equals_the_whole_base, bases / architecture)


def test_so_they_are_in_bfloat16(two_ranks: RankProcesses, bases: Path) -> None:
    two_ranks.run(equals_the_whole_base, bases / "deep", torch.bfloat16)


def test_a_tie_that_the_files_contradict_is_none(two_ranks: RankProcesses, bases: Path, tmp_path: Path) -> None:
    _deep().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert two_ranks.run(computes_as_the_whole_base, tmp_path) == [False, False]


def computes_as_the_whole_base(group: RankGroup, folder: Path) -> bool:
    """Whether embedding and unembedding are tied."""
    base, whole = load_sharded_base(str(folder), ranks=group), load_base_model(str(folder))
    assert base.info == whole.info
    _same(_learnt(base), _learnt(whole))
    return base._model.get_output_embeddings().weight is base._model.get_input_embeddings().weight


def test_a_group_of_one_computes_the_same(one_rank: RankProcesses, bases: Path) -> None:
    one_rank.run(equals_the_whole_base, bases / "deep")


@pytest.mark.slow
def test_more_ranks_than_some_dimensions_divide_by_compute_the_same(more_ranks: RankProcesses, bases: Path) -> None:
    for architecture in [*FAMILIES, "in several files", "deep"]:
        more_ranks.run(equals_the_whole_base, bases / architecture)


def equals_the_whole_base(group: RankGroup, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    base, whole = load_sharded_base(str(folder), dtype=dtype, ranks=group), load_base_model(str(folder), dtype=dtype)
    assert (base.info, base.budget(1)) == (whole.info, whole.budget(1))
    _same_parameters(base, folder, dtype)
    for lora in SHAPES:
        _same(_learnt(base, lora), _learnt(whole, lora))
    _same(_learnt(base, LORA, recompute=True), _learnt(whole, LORA))
    _same(_several(base), _several(whole))
    _same(_base_logprobs(base), _base_logprobs(whole))
    _same(_most_likely(base), _most_likely(whole))
    base.measure_activations()
    whole.measure_activations()
    pack = base.pack(to_datums(deep_batch()))
    assert base.activation_bytes(pack) == whole.activation_bytes(pack)


def _same_parameters(base: BaseModel, folder: Path, dtype: torch.dtype) -> None:
    """Of a base that has no LoRA layers yet: what `fully_shard` leaves of the loaded model."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    shard_base(loaded, base.device)
    for (name, mine), (other, theirs) in zip(base._model.named_parameters(), loaded.named_parameters(), strict=True):
        is_divided = any(part in name for part in (".layers.", "embed_tokens", "lm_head"))
        assert (name, mine.shape, isinstance(mine, DTensor)) == (other, theirs.shape, is_divided)
        assert torch.equal(_local(mine), _local(theirs)), name
    for (name, mine), (_, theirs) in zip(base._model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(mine, theirs), name
    head, embedding = base._model.get_output_embeddings(), base._model.get_input_embeddings()
    assert (head.weight is embedding.weight) == base._model.config.tie_word_embeddings


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _bound(base: BaseModel, lora: LoraConfig = LORA) -> torch.Tensor:
    """With weights that are not zero; the scratch gradient, which is."""
    layout = base.adapter(lora).layout
    weights = torch.randn(layout.num_parameters, generator=torch.Generator().manual_seed(0)) * 0.2
    return base.bind(Session.starting_from(lora, layout, weights)).scratch_gradient.zero_()


def _forward(base: BaseModel, *, recompute: bool = False) -> torch.Tensor:
    return base.logprobs(base.pack(to_datums(deep_batch())), recompute=recompute)[0]


def _backward(base: BaseModel, logprobs_P: torch.Tensor) -> None:
    with base.gathers.backward():
        (logprobs_P * torch.linspace(0.5, 1.5, len(logprobs_P))).sum().backward()


def _learnt(base: BaseModel, lora: LoraConfig = LORA, *, recompute: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs and the gradient of LoRA weights."""
    scratch = _bound(base, lora)
    logprobs_P = _forward(base, recompute=recompute)
    with base.learning_from(()):
        _backward(base, logprobs_P)
    return logprobs_P.detach(), scratch.clone()


def _several(base: BaseModel) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_learnt`, of two targets a position, where the backward makes the logits again."""
    scratch, datums = _bound(base), [with_two_targets(datum) for datum in to_datums(deep_batch())]
    logprobs_P, _ = base.logprobs(base.pack(datums))
    with base.learning_from(datums):
        _backward(base, logprobs_P)
    return logprobs_P.detach(), scratch.clone()


def _base_logprobs(base: BaseModel) -> tuple[torch.Tensor]:
    return (base.base_logprobs(base.pack(to_datums(mixed_batch()))),)


def _most_likely(base: BaseModel) -> tuple[torch.Tensor, ...]:
    return base.most_likely(base.pack(to_datums(mixed_batch())))


def _same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.any()
        assert torch.equal(mine, theirs)


def test_a_layer_that_raises_on_one_rank_leaves_no_trace_on_any(two_ranks: RankProcesses, bases: Path) -> None:
    forwards, backwards = 4 * (NUM_LAYERS + 2 * NUM_BLOCKS), 3 * NUM_LAYERS
    assert two_ranks.run(goes_on_after_strikes, bases / "deep") == [2 * NUM_LAYERS * (forwards + backwards)] * 2


def goes_on_after_strikes(group: RankGroup, folder: Path) -> int:
    """Rank 1 is struck in each layer, forwards and backwards. How many gathers each rank made."""
    base, expected = load_sharded_base(str(folder), ranks=group), _learnt(load_base_model(str(folder)))
    before = _gathers(base).traffic.number
    for layer, recompute in product(range(NUM_LAYERS), [False, True]):
        _bound(base)
        with _struck(base, layer, "forward", group.rank == 1):
            _forward(base, recompute=recompute)
        _same(_learnt(base), expected)
        with _struck(base, layer, "backward", group.rank == 1):
            _learnt(base, recompute=recompute)
        _same(_learnt(base), expected)
    return _gathers(base).traffic.number - before


def test_a_block_that_raises_on_one_rank_leaves_no_trace_on_any(two_ranks: RankProcesses, bases: Path) -> None:
    two_ranks.run(goes_on_after_strikes_in_blocks, bases / "deep")


def goes_on_after_strikes_in_blocks(group: RankGroup, folder: Path) -> None:
    """Rank 1 is struck while it uses each block: of the embedding, of the head, and of the head in the backward."""
    base, whole = load_sharded_base(str(folder), ranks=group), load_base_model(str(folder))
    expected = _several(whole)
    for strike in range(3 * NUM_BLOCKS):
        with _struck_in_block(strike, group.rank == 1):
            _several(base)
        if strike < 2 * NUM_BLOCKS and group.rank == 1:
            with base.gathers.recomputing_head(True):
                base.gathers.idle_backward()
        _same(_several(base), expected)


@contextmanager
def _struck_in_block(strike: int, is_here: bool) -> Generator[None]:
    """The block of this number, of all that a pass uses, raises when it is there, if it is here."""
    if not is_here:
        yield
        return
    used, rightly = count(), ShardedRows.blocks

    def blocks(rows: ShardedRows) -> Iterator[tuple[range, torch.Tensor]]:
        for block in rightly(rows):
            if next(used) == strike:
                raise Struck
            yield block

    with patch.object(ShardedRows, "blocks", blocks), pytest.raises(Struck):
        yield


@pytest.mark.parametrize("head_again", [False, True])
def test_a_rank_that_has_nothing_to_compute_or_drops_it_keeps_the_others_right(
    two_ranks: RankProcesses, bases: Path, head_again: bool
) -> None:
    numbers = two_ranks.run(computes_while_others_idle, bases / "deep", head_again)
    assert len(set(numbers)) == 1


def computes_while_others_idle(group: RankGroup, folder: Path, head_again: bool) -> int:
    """Each rank in turn computes alone, while the other has less to do, or something else. How many gathers it made.

    head_again: backwards are of a call of which some passes make their logits again."""
    base, whole = load_sharded_base(str(folder), ranks=group), load_base_model(str(folder))
    expected = _learnt(whole), _several(whole)
    before, again = _gathers(base).traffic.number, (_learn_in_the_head, _several) if head_again else ()
    with (
        patch.object(BaseModel, "learning_from", lambda *_: nullcontext()),
        base.gathers.recomputing_head(head_again),
    ):
        for busy in range(group.size):
            for other in (_idle, _drop_the_backward, _fall_and_idle, _score_alone, _recompute, *again):
                if group.rank == busy:
                    _same(_learnt(base), expected[0])
                else:
                    other(base)
                if head_again and group.rank == busy:
                    _same(_several(base), expected[1])
                elif head_again:
                    other(base)
        _same(_learnt(base), expected[0])
    return _gathers(base).traffic.number - before


def _idle(base: BaseModel) -> None:
    base.gathers.idle_forward()
    base.gathers.idle_backward()


def _drop_the_backward(base: BaseModel) -> None:
    _bound(base)
    _forward(base)
    base.gathers.idle_backward()


def _fall_and_idle(base: BaseModel) -> None:
    _bound(base)
    with _struck(base, 1, "forward"):
        _forward(base)
    base.gathers.idle_backward()


def _score_alone(base: BaseModel) -> None:
    with torch.no_grad():
        _base_logprobs(base)
    base.gathers.idle_backward()


def _learn_in_the_head(base: BaseModel) -> None:
    """No layer has a weight to learn, so the backward ends before it comes to them."""
    _learnt(base, LoraConfig(rank=2, alpha=4, attn=False, mlp=False, unembed=True))


def _recompute(base: BaseModel) -> None:
    _learnt(base, recompute=True)


def test_without_the_gathers_of_what_it_drops_a_rank_takes_one_layer_for_another(
    two_ranks: RankProcesses, bases: Path
) -> None:
    right, wrong = two_ranks.run(drops_a_backward_unguarded, bases / "deep")
    assert right > 0.1, "the gradient of the rank that did as it should"
    assert wrong > 0.1, "the logprobs of the one that did not"


def drops_a_backward_unguarded(group: RankGroup, folder: Path) -> float:
    """How wrong, by its size, is what each rank computes of the same four gathers: nothing is raised."""
    with patch.object(sharding, "vocabulary_modules", lambda _: (None, None)):
        base = load_sharded_base(str(folder), ranks=group)
    logprobs_P, gradient = _learnt(load_base_model(str(folder)))
    scratch = _bound(base)
    found = _forward(base)
    if group.rank == 0:
        _backward(base, found)
        return _distance(scratch, gradient)
    return _distance(_forward(base), logprobs_P)


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("half_way", ["attend", "_flash_backward"])
def test_a_kernel_that_fails_half_way_at_load_is_left_on_all_ranks(
    two_ranks: RankProcesses, bases: Path, half_way: str
) -> None:
    two_ranks.run(loads_with_a_kernel_that_fails, bases / "deep", half_way)


def loads_with_a_kernel_that_fails(group: RankGroup, folder: Path, half_way: str) -> None:
    """In the third layer that rank 1 comes to."""
    of, calls = (cascade.CascadeKernel if half_way == "attend" else cascade), [0]
    rightly = getattr(of, half_way)

    def fails(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if group.rank == 1 and calls[0] > 2:
            raise RuntimeError("a kernel that fails")
        return rightly(*args, **kwargs)

    with patch.object(of, half_way, fails):
        base = load_sharded_base(str(folder), ranks=group)
    whole = load_base_model(str(folder))
    assert (base.kernel, whole.kernel) == ("dense", "cascade")
    with whole.computing_by("dense", FUSED_LORA, whole.head_rows, whole.products):
        _same(_learnt(base), _learnt(whole))


def test_files_that_lack_a_weight_are_refused(two_ranks: RankProcesses, bases: Path, tmp_path: Path) -> None:
    _deep().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for found in two_ranks.outcomes(load_only, tmp_path):
        assert "OSError" in str(found)
        assert "lacks weights of Qwen3ForCausalLM: model.layers.2.mlp.up_proj.weight" in str(found)


def test_fused_projections_that_would_be_split_wrongly_are_refused(two_ranks: RankProcesses, tmp_path: Path) -> None:
    HrmTextForCausalLM(HrmTextConfig(**_SHAPE, H_cycles=1, L_cycles=1)).save_pretrained(tmp_path)
    for found in two_ranks.outcomes(load_only, tmp_path):
        assert "UnsupportedArchitecture: HrmTextForCausalLM: " in str(found)
        assert "cannot be read in parts; run it on one GPU" in str(found)


def test_layers_that_are_used_twice_a_pass_are_refused(two_ranks: RankProcesses, tmp_path: Path) -> None:
    model = HrmTextForCausalLM(HrmTextConfig(**_SHAPE, H_cycles=2, L_cycles=2, prefix_lm=False))
    model.save_pretrained(tmp_path, save_original_format=False)
    for found in two_ranks.outcomes(load_only, tmp_path):
        assert "UnsupportedArchitecture" in str(found)
        assert "layers were gathered in the order" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_rank_that_leaves_half_way_ends_the_others_at_once(bases: Path, where: str) -> None:
    ranks = RankProcesses(2)
    try:
        stayed, left = ranks.outcomes(goes_on_without_a_peer, bases / "deep", where)
    finally:
        ranks.close()
    assert "ended with 9" in str(left)
    assert not isinstance(stayed, RankFailed), stayed
    assert stayed < 5


def goes_on_without_a_peer(group: RankGroup, folder: Path, where: str) -> float:
    """Rank 1 exits in its third layer. Seconds until rank 0 knows, and makes no other gather."""
    base = load_sharded_base(str(folder), ranks=group)
    _bound(base)
    if group.rank == 1:
        with patch.object(Struck, "__init__", lambda _: os._exit(9)), _struck(base, 2, where):
            _learnt(base)
    started = time.monotonic()
    with pytest.raises(DeviceLost, match="a rank of this trainer is gone") as lost:
        _learn_twice(base)  # the gathers of the first pass may have come to their end
    assert ".cc" not in lost.value.message
    made = _gathers(base).traffic.number
    with pytest.raises(DeviceLost):
        _learnt(base)
    assert _gathers(base).traffic.number == made
    return time.monotonic() - started


def _learn_twice(base: BaseModel) -> None:
    _learnt(base)
    _learnt(base)


def load_only(group: RankGroup, folder: Path) -> str:
    return load_sharded_base(str(folder), ranks=group).info.architecture


class Struck(Exception):
    """What a layer raises."""


@contextmanager
def _struck(base: BaseModel, layer: int, where: str, is_here: bool = True) -> Generator[None]:
    """The layer raises in its forward, or when its gradient comes, if it is here."""
    if not is_here:
        yield
        return

    def strike(*_: object) -> None:
        raise Struck

    def after_forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        if where == "forward":
            strike()
        output.register_hook(strike)

    handle = base._model.base_model.layers[layer].mlp.register_forward_hook(after_forward)
    with pytest.raises(Struck):
        yield
    handle.remove()


def _gathers(base: BaseModel) -> LayerGathers:
    assert isinstance(base.gathers, LayerGathers)
    return base.gathers
