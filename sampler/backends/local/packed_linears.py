"""Products of the frozen linear layers by oneDNN, over weights that lie as its kernels read them.

torch hands float32 products to MKL, which packs the weights anew in each call and, on other makers' processors than
Intel's, leaves half of the vector width unused. Measured on one thread of an AMD EPYC, 32 rows by 576 × 1536: 80
GFLOP/s by MKL, 190 by oneDNN over packed weights; a single row, which reads the weights and little else, is twice as
fast too. Both are float32 throughout, and differ in the order of their sums.
"""

# I features in, O features out

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

_ROWS = 32
"""The layout is chosen for so many, which one row and a thousand are quick with, too."""

NUM_KERNELS = 256
"""That oneDNN keeps (`keep_few_kernels`): of seven layers' shapes and some forty numbers of rows."""


def pack_linears(model: nn.Module) -> None:
    """Have each plain float32 linear layer of a CPU model multiply by its packed weight, which takes the place of its
    parameter; that of a tied head stays for the embedding. Other layers are left as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu":
            _pack(module, keep=id(module.weight) in tied)


def _pack(linear: nn.Linear, *, keep: bool) -> None:
    packed_OI = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
    linear.forward = functools.partial(_product, packed_OI, linear.bias)  # pyright: ignore[reportAttributeAccessIssue]
    if not keep:
        linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def _product(packed_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed_OI, bias_O, "none", [], "")
