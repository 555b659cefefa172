"""How a base is divided among ranks: by rows the weights of its decoder layers, its embedding and its unembedding.

FSDP knows the layers. The other two come together block by block, and a tie of them stays a tie. What else there is, a
norm or a tower, is whole on each rank. LoRA layers are put in afterwards, and FSDP knows nothing of them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import PreTrainedModel

from trainer.distributed.layer_gathers import LayerGathers
from trainer.distributed.vocabulary_blocks import look_up_by_blocks, project_by_blocks
from trainer.engine.architectures import decoder_layers, vocabulary_modules
from trainer.engine.attention import UnsupportedArchitecture
from trainer.engine.text_part import text_part


def shard_base(model: PreTrainedModel, device: torch.device) -> None:
    """Divide the base among the ranks of the default group; on the meta device, nothing is moved.

    The root of FSDP is the backbone, which the engine calls, and not the language model around it. device: where the
    weights will be. Raises UnsupportedArchitecture for a model without layers that transformers marks.
    """
    assert dist.group.WORLD is not None, "a process group comes first"
    layers, backbone = decoder_layers(model), text_part(model)
    if not layers:
        raise UnsupportedArchitecture(f"{type(model).__name__} has no decoder layers that could be divided among GPUs")
    mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)
    _shard_vocabulary(model, mesh)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in backbone.parameters() if parameter not in inside}
    fully_shard(backbone, mesh=mesh, ignored_params=outside)


def gathers_of(model: PreTrainedModel) -> LayerGathers:
    """Of a model that was divided, and has its weights. Its embedding and unembedding compute by blocks from now on."""
    embedding, head = vocabulary_modules(model)
    gathers = LayerGathers(
        cast(FSDPModule, text_part(model)),
        [cast(FSDPModule, layer) for layer in decoder_layers(model)],
        dist.get_world_size(),
        embedding and cast(DTensor, embedding.weight),
        head and cast(DTensor, head.weight),
    )
    if embedding is not None and gathers.embedding is not None:
        look_up_by_blocks(embedding, gathers.embedding)
    if head is not None and gathers.unembedding is not None:
        project_by_blocks(head, gathers.unembedding)
    return gathers


def _shard_vocabulary(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    divided = dict[torch.Tensor, torch.nn.Parameter]()
    for module in filter(None, vocabulary_modules(model)):
        if module.weight not in divided:
            divided[module.weight] = _rows_of_rank(module.weight, mesh)
        module.weight = divided[module.weight]


def _rows_of_rank(weight: torch.Tensor, mesh: DeviceMesh) -> torch.nn.Parameter:
    own = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
    return torch.nn.Parameter(own, requires_grad=weight.requires_grad)
