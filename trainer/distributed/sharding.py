"""How a base is divided among ranks: the weights of its decoder layers, by rows, and nothing else.

Embedding, final norm and unembedding are whole on each rank, so that a tie of two of them stays a tie. LoRA layers are
put in afterwards, and FSDP knows nothing of them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from trainer.distributed.layer_gathers import LayerGathers
from trainer.engine.architectures import decoder_layers
from trainer.engine.attention import UnsupportedArchitecture


def shard_layers(model: PreTrainedModel, device: torch.device) -> None:
    """Divide each decoder layer among the ranks of the default group; on the meta device, nothing is moved.

    The root is the backbone, which the engine calls, and not the language model around it. device: where the weights
    will be. Raises UnsupportedArchitecture for a model without layers that transformers marks.
    """
    assert dist.group.WORLD is not None, "a process group comes first"
    layers = decoder_layers(model.base_model)
    if not layers:
        raise UnsupportedArchitecture(f"{type(model).__name__} has no decoder layers that could be divided among GPUs")
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in model.base_model.parameters() if parameter not in inside}
    fully_shard(model.base_model, mesh=mesh, ignored_params=outside)


def gathers_of(model: PreTrainedModel) -> LayerGathers:
    """Of a model whose layers were divided."""
    layers = [cast(FSDPModule, layer) for layer in decoder_layers(model.base_model)]
    return LayerGathers(cast(FSDPModule, model.base_model), layers, dist.get_world_size())
