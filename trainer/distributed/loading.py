"""A base read from disk into the shards of its ranks: no rank ever holds all of it, on its device or in host memory.

transformers builds the model without memory, it is divided, and its own loader then reads of each file the
rows that are this rank's. Each rank reads for itself; what is whole on every rank is read by all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from trainer.distributed.sharded_fingerprint import sharded_fingerprint
from trainer.distributed.sharding import gathers_of, shard_base
from trainer.engine.attention import UnsupportedArchitecture
from trainer.engine.base_memory import outline_of, refuse_too_large
from trainer.engine.base_model import BaseModel, usual_dtype
from trainer.engine.ranks import Alone, Ranks, at_own_pace
from trainer.engine.vision.tower import tower_of
from wire.process.product_dtype import ProductDtype

Model = TypeVar("Model", bound=PreTrainedModel)


def load_sharded_base(
    name_or_path: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    ranks: Ranks | None = None,
    on_host: int = 1,
    products: ProductDtype = ProductDtype.FLOAT32,
) -> BaseModel:
    """As `load_base_model`, of which each rank of the default process group holds its part. All ranks call it.

    Shards are those of `shard_base` on the loaded model, to the bit. ranks: the same group, by which they agree on
    what the self-check found, and raise what one of them raises. on_host: how many of them this host has. Raises
    UnsupportedArchitecture also where the files hold weights in a layout that cannot be read in parts, OSError where
    some are missing, and BaseTooLarge where a rank has no room for its part.
    """
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    ranks = ranks or Alone()
    with at_own_pace(ranks):  # gathers have a limit, and reading takes each as long as its disk needs
        outline = outline_of(name_or_path, dtype or usual_dtype(device), revision)
        refuse_too_large(outline, place, dist.get_world_size(), on_host)
    with at_own_pace(ranks):
        model = _read(name_or_path, outline, place, revision)
    gathers = gathers_of(model)
    tower = tower_of(model, name_or_path, revision)
    return BaseModel(model, gathers, sharded_fingerprint, ranks, gathers.unembedding, products, tower)


def _read(name_or_path: str, outline: PreTrainedModel, device: torch.device, revision: str | None) -> PreTrainedModel:
    architecture = type(outline)
    model, report = cast(Any, _dividing(architecture, device)).from_pretrained(
        name_or_path,
        config=outline.config,
        revision=revision,
        dtype=outline.dtype,
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model.__class__ = architecture
    if missing := sorted(report["missing_keys"]):
        raise OSError(f"{name_or_path} lacks weights of {architecture.__name__}: {', '.join(missing[:5])}")
    return model


def _dividing(architecture: type[Model], device: torch.device) -> type[Model]:
    """The architecture, whose loader divides the model before it reads any of it."""

    def load(model: PreTrainedModel, _: None, files: Sequence[str], loading: Any, *rest: Any) -> Any:
        if loading.is_quantized:
            raise UnsupportedArchitecture(f"{architecture.__name__}: a quantized base runs on one GPU only")
        shard_base(model, device)
        with ExitStack() as stack:
            state = {name: tensor for file in files for name, tensor in _tensors_in(file, device, stack)}
            _read_in_parts(model, state, loading.weight_mapping or [], device)
            return cast(Any, architecture)._load_pretrained_model(model, state, None, loading, *rest)

    members = {"_load_pretrained_model": staticmethod(load), "__module__": architecture.__module__}
    return cast(type[Model], type(architecture.__name__, (architecture,), members))


def _tensors_in(file: str, device: torch.device, stack: ExitStack) -> Iterator[tuple[str, _Tensor]]:
    opened = stack.enter_context(safe_open(file, framework="pt"))
    return ((name, _Tensor(opened.get_slice(name), device)) for name in opened.keys())  # noqa: SIM118


class _Tensor:
    """A tensor of a file, of which parts can be read, as safetensors has it: but a part does not keep all of the file
    mapped, as it would where it stays in host memory."""

    def __init__(self, tensor: Any, device: torch.device) -> None:
        self._tensor = tensor
        self._stays = device.type == "cpu"
        self.get_shape = tensor.get_shape
        self.get_dtype = tensor.get_dtype

    def __getitem__(self, part: Any) -> torch.Tensor:
        found = self._tensor[part]
        return found.clone() if self._stays else found


def _read_in_parts(model: PreTrainedModel, names: Iterable[str], mapping: Sequence[Any], device: torch.device) -> None:
    """Have what transformers does to the weights of these names done to a rank's rows of them alone.

    Experts that the files hold one by one are read by whom they belong to. Refuses by name what needs more of a weight
    than its rows: a split of fused projections, say, would be computed of the wrong ones.
    """
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    refused = {pattern for each in converters if not _keeps_rows(each.operations) for pattern in each.source_patterns}
    expected = model.state_dict()
    for name in names:
        _, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if pattern in refused and name not in expected:
            raise UnsupportedArchitecture(
                f"{type(model).__name__}: {name} cannot be read in parts; run it on one GPU, or convert it once: "
                "from_pretrained(…).save_pretrained(…, save_original_format=False)"
            )
    for each in converters:
        each.operations = [_MergeOwned(device) if type(op) is MergeModulelist else op for op in each.operations]


def _keeps_rows(operations: Sequence[ConversionOps]) -> bool:
    merge, *others = operations
    return (
        isinstance(merge, MergeModulelist)
        and merge.dim == 0
        and all(isinstance(other, Concatenate) and other.dim > 0 for other in others)
    )


class _MergeOwned(MergeModulelist):
    """Stacks the experts of this rank, which may be none."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(dim=0)
        self._device = device

    def convert(self, input_dict: Any, source_patterns: Any, target_patterns: Any, **about: Any) -> Any:
        if any(input_dict.values()):
            return super().convert(input_dict, source_patterns, target_patterns, **about)
        whole = about["model"].get_parameter(about["full_layer_name"])
        pattern = self.get_target_pattern(len(input_dict), source_patterns[0], target_patterns)
        return {pattern: torch.empty((0, *whole.shape[1:]), dtype=whole.dtype, device=self._device)}
