"""How much a rank holds of a base, at rest and in a pass: live storages are counted, and RSS is looked at beside it."""

from __future__ import annotations

import ctypes
import gc
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.distributed.processes import RankProcesses
from tests.unit.trainer.tiny import LORA, datum_of, tiny_model
from trainer.distributed.group import RankGroup
from trainer.distributed.layer_all_gather import LayerAllGather
from trainer.distributed.loading import load_sharded_base
from trainer.distributed.vocabulary_blocks import BlockGather
from trainer.engine import unembedding
from trainer.engine.base_memory import base_bytes, outline_of
from trainer.engine.base_model import BaseModel
from trainer.engine.session import Session

NUM_LAYERS = 12
_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h. What is larger has pages of its own: else small things that stay keep large ones that were freed
from being given back, and RSS grows by ten layers."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 254 MB in several, of which a layer has 14.2, and embedding and unembedding 41 each."""
    folder = tmp_path_factory.mktemp("large")
    shape = {"hidden_size": 512, "intermediate_size": 1792, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=20000, num_hidden_layers=NUM_LAYERS))
    model.save_pretrained(folder, max_shard_size="50MB")
    return folder


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of one rank. base: of all weights. layer: of one of the layers. embedding: of this. largest: of any storage
    that was there. needed: as the trainer counts before it
    loads. loaded: of live storages after it. adapter: that came with one. in_pass: the most that came with a pass.
    anonymous_loading, anonymous_pass: by how much the process's own memory (RssAnon) grew at the most, and rss_loading:
    with the pages of the files that it has looked at."""

    base: int
    layer: int
    embedding: int
    largest: int
    needed: int
    loaded: int
    adapter: int
    in_pass: int
    anonymous_loading: int
    rss_loading: int
    anonymous_pass: int


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_rank_holds_its_part_and_two_layers_at_the_most(large: Path, tmp_path: Path, num_ranks: int) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    ranks = RankProcesses(num_ranks)
    try:
        found = ranks.run(weighed, tmp_path, large)
    finally:
        ranks.close()
    for held in found:
        print({name: f"{getattr(held, name) / 1e6:.1f} MB" for name in Held.__slots__})  # noqa: T201
        part = held.base / num_ranks
        assert held.largest == max(held.layer, held.embedding / num_ranks), "neither embedding nor unembedding is whole"
        assert held.loaded == pytest.approx(part + held.layer, rel=0.01), "with the buffer that layers come to"
        assert held.loaded + held.adapter + held.in_pass == pytest.approx(part + 2 * held.layer + held.adapter, rel=0.1)
        assert held.layer < held.in_pass < 1.4 * held.layer
        assert held.needed == pytest.approx(part + 2 * held.layer, rel=0.01)
        # With what the self-check computes.
        assert held.anonymous_loading < part + 6 * held.layer
        assert held.anonymous_pass < 3 * held.layer


def weighed(group: RankGroup, small: Path, folder: Path) -> Held:
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 18)
    with patch.object(unembedding, "BLOCK_ROWS", 2048):
        return _weighed(group, small, folder)


def _weighed(group: RankGroup, small: Path, folder: Path) -> Held:
    outline = outline_of(str(folder), torch.float32, None)
    load_sharded_base(str(small), ranks=group)  # imports what loading needs
    before = _live_bytes()
    with _RssPeak() as loading:
        base = load_sharded_base(str(folder), ranks=group)
    loaded = _live_bytes() - before
    layout = base.adapter(LORA).layout
    base.bind(Session.starting_from(LORA, layout, layout.fresh_weights(0)))
    at_rest = _live_bytes()
    seen = _seen_in_a_pass(base)
    in_pass, largest = max(held for held, _ in seen) - at_rest, max(largest for _, largest in seen)
    with _RssPeak() as passing:
        _pass(base)
    return Held(
        base=sum(parameter.nbytes for parameter in outline.parameters()),
        layer=sum(parameter.nbytes for parameter in outline.model.layers[0].parameters()),
        embedding=outline.get_input_embeddings().weight.nbytes,
        largest=largest,
        needed=base_bytes(outline, group.size),
        loaded=loaded,
        adapter=at_rest - before - loaded,
        in_pass=in_pass,
        anonymous_loading=loading.anonymous,
        rss_loading=loading.all,
        anonymous_pass=passing.anonymous,
    )


def _pass(base: BaseModel) -> None:
    logprobs_P, _ = base.logprobs(base.pack([datum_of(range(3, 11), 4)]))
    with base.gathers.backward():
        logprobs_P.sum().backward()


def _seen_in_a_pass(base: BaseModel) -> list[tuple[int, int]]:
    """Live bytes, and those of the largest storage, whenever a gather was issued, and when a layer computes, forwards
    and backwards."""
    seen = list[tuple[int, int]]()

    def look(*_: object) -> None:
        sizes = _live_storages().values()
        seen.append((sum(sizes), max(sizes)))

    def and_look(issue: Callable[..., object]) -> Callable[..., object]:
        def issue_and_look(*args: object, **kwargs: object) -> object:
            work = issue(*args, **kwargs)
            look()
            return work

        return issue_and_look

    def after_forward(_module: object, _inputs: object, output: torch.Tensor) -> None:
        look()
        output.register_hook(look)

    handles = [layer.mlp.register_forward_hook(after_forward) for layer in base._model.base_model.layers]
    with (
        patch.object(LayerAllGather, "__call__", and_look(LayerAllGather.__call__)),
        patch.object(BlockGather, "issue", and_look(BlockGather.issue)),
    ):
        _pass(base)
    for handle in handles:
        handle.remove()
    assert len(seen) == 4 * NUM_LAYERS + 2 * 10, "blocks"
    return seen


def _live_bytes() -> int:
    return sum(_live_storages().values())


def _live_storages() -> dict[int, int]:
    """Bytes of all storages that some tensor of this process has."""
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    storages = [
        each.untyped_storage() for each in tensors if not isinstance(each, DTensor) and each.device.type == "cpu"
    ]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


class _RssPeak:
    """The most by which memory grew inside of the block, looked at every millisecond."""

    def __enter__(self) -> _RssPeak:
        gc.collect()
        self._before = _rss()
        self.anonymous = self.all = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.001):
            anonymous, of_files = (now - then for now, then in zip(_rss(), self._before, strict=True))
            self.anonymous, self.all = max(self.anonymous, anonymous), max(self.all, anonymous + of_files)


def _rss() -> tuple[int, int]:
    """Own pages of this process, and those of files."""
    status = Path("/proc/self/status").read_text()
    anonymous, of_files = (
        1024 * int(re.search(rf"{name}:\s+(\d+)", status).group(1)) for name in ("RssAnon", "RssFile")
    )
    return anonymous, of_files
