"""Products of the frozen linear layers by oneDNN, over weights that lie as its kernels read them.

torch hands float32 products to MKL, which packs the weights anew in each call and, on other makers' processors than
Intel's, leaves half of the vector width unused. Measured on one thread of an AMD EPYC, 32 rows by 576 × 1536: 80
GFLOP/s by MKL, 190 by oneDNN over packed weights, 400 in bfloat16; a single row, which reads the weights and little
else, is quicker to the same degree. float32 products differ in the order of their sums alone.
"""

# I features in, O features out

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROWS = 32
"""The layout is chosen for so many, which one row and a thousand are quick with, too."""

NUM_KERNELS = 256
"""That oneDNN keeps (`keep_few_kernels`): of seven layers' shapes and some forty numbers of rows."""


def pack_linears(model: nn.Module) -> None:
    """Have each plain float32 linear layer of a CPU model multiply by its packed weight, which takes the place of its
    parameter; that of a tied head stays for the embedding. Other layers are left as they are, but for the parameters of
    those that multiply by a packed weight already."""
    if not torch.backends.mkldnn.is_available():
        return
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for linear in plain_linears(model):
        if not isinstance(linear.forward, functools.partial):
            packed_OI = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
            _replace_forward(linear, functools.partial(_product, packed_OI, linear.bias))
        if id(linear.weight) not in tied:
            linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def plain_linears(model: nn.Module) -> list[nn.Linear]:
    """Those of float32 on a CPU, of torch's own class."""
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    return [each for each in linears if each.weight.dtype == torch.float32 and each.weight.device.type == "cpu"]


def multiply_in_bf16(linears: Sequence[nn.Linear]) -> None:
    """From here on by packed copies of their weights in bfloat16; `pack_linears` drops the parameters."""
    for linear in linears:
        packed_OI = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), _ROWS)
        _replace_forward(linear, functools.partial(_product_in_bf16, packed_OI, linear.bias))


def multiply_as_before(linears: Sequence[nn.Linear]) -> None:
    """Undoes `multiply_in_bf16`."""
    for linear in linears:
        if isinstance(linear.forward, functools.partial):
            del linear.forward


def _replace_forward(linear: nn.Linear, product: functools.partial[Tensor]) -> None:
    linear.forward = product  # pyright: ignore[reportAttributeAccessIssue]


def _product(packed_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed_OI, bias_O, "none", [], "")


def _product_in_bf16(packed_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    y = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), packed_OI, None, "none", [], "").float()
    return y if bias_O is None else y.add_(bias_O)
