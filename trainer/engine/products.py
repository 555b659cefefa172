"""Which library multiplies the large matrices of a pass: layers with LoRA on them, and the head.

torch hands float32 products on a CPU to MKL, which on processors of other makers than Intel uses half of the vector
width: 105 to 115 GFLOP/s on a core of an AMD EPYC, where oneDNN reaches 210 to 250 with the same matrices. Both are
float32 throughout, and differ in the order of their sums, so a plan says whose products a gradient was computed by
(docs/decisions/0063).

oneDNN generates a kernel for each shape, in up to 2.6 ms, and keeps some (`wire.process.onednn`). Small products, which
would not earn that back in a pass whose number of tokens is new, go to MKL: shapes alone decide.
"""

# N rows, I features in, O features out, K summed over, M columns

from __future__ import annotations

import platform
from typing import ClassVar

import torch
from torch.nn import functional

from wire.plans import BF16_PRODUCTS, ONEDNN_PRODUCTS, TORCH_PRODUCTS
from wire.process.product_dtype import is_worth_rounding, multiplies_bf16

NUM_KERNELS = 32
"""That oneDNN keeps. A micro-batch has some twenty shapes of products, the same in all of its layers, and the next one
has others. Passes of many lengths grow a trainer by 80 MiB then; by 140 with 64 kernels, and as quickly with 16."""

_WORTH_A_KERNEL = 1 << 24
"""Multiplications of a product: 85 rows by 256 × 768, or 19 by 576 × 1536, save 0.17 ms."""


class Products:
    """torch's own, on any device and in any dtype. Others must be called without a graph: they have no derivative."""

    name: ClassVar[str] = TORCH_PRODUCTS
    are_emulated = False
    """Whether the processor lacks what they are for, and they take longer."""

    @staticmethod
    def run_on(device: torch.device) -> bool:
        """Whether this machine can multiply so."""
        return True

    @staticmethod
    def are_best_on(device: torch.device) -> bool:
        """A fixed fact of the machine, so that two trainers on it plan alike."""
        return True

    def differ_for(self, num_rows: int, weight_OI: torch.Tensor) -> bool:
        """Whether so many rows are multiplied with the weight otherwise than by torch."""
        return False

    def linear(self, x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """xWᵀ + bias, [N, O]."""
        return functional.linear(x_NI, weight_OI, bias_O)

    def multiply(self, one_NK: torch.Tensor, other_KM: torch.Tensor) -> torch.Tensor:
        """[N, M]."""
        return one_NK @ other_KM

    def add_(
        self, to_NM: torch.Tensor, one_NK: torch.Tensor, other_KM: torch.Tensor, *, times: float = 1.0
    ) -> torch.Tensor:
        """to_NM, to which times · one @ other was added."""
        return to_NM.addmm_(one_NK, other_KM, alpha=times)

    def round_for(self, num_rows: int, weight_OI: torch.Tensor) -> bool:
        """Whether `frozen` and `through` round so many rows to fewer bits than they have."""
        return False

    def frozen(self, x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """xWᵀ + bias, [N, O], of a weight of the base that is as it was stored."""
        return self.linear(x_NI, weight_OI, bias_O)

    def through(self, dy_NO: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        """dyW, [N, I], of such a weight."""
        return self.multiply(dy_NO, weight_OI)


TORCH = Products()


class OneDnnProducts(Products):
    """Of large float32 matrices by oneDNN, of all others by torch."""

    name = ONEDNN_PRODUCTS

    @staticmethod
    def run_on(device: torch.device) -> bool:
        return device.type == "cpu" and platform.machine() == "x86_64" and torch.backends.mkldnn.is_available()

    @staticmethod
    def are_best_on(device: torch.device) -> bool:
        """Where vectors have 512 bits. Intel's own MKL uses them too, and is as fast."""
        return OneDnnProducts.run_on(device) and torch.backends.cpu.get_cpu_capability() == "AVX512"

    def differ_for(self, num_rows: int, weight_OI: torch.Tensor) -> bool:
        return _is_large(num_rows, weight_OI)

    def linear(self, x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        if not self.differ_for(len(x_NI), weight_OI):
            return super().linear(x_NI, weight_OI, bias_O)
        return _by_onednn(x_NI, weight_OI, bias_O)

    def multiply(self, one_NK: torch.Tensor, other_KM: torch.Tensor) -> torch.Tensor:
        if not _is_large(len(one_NK), other_KM):
            return super().multiply(one_NK, other_KM)
        return _by_onednn(one_NK, other_KM.T)

    def add_(
        self, to_NM: torch.Tensor, one_NK: torch.Tensor, other_KM: torch.Tensor, *, times: float = 1.0
    ) -> torch.Tensor:
        if not _is_large(len(one_NK), other_KM):
            return super().add_(to_NM, one_NK, other_KM, times=times)
        return to_NM.add_(_by_onednn(one_NK, other_KM.T), alpha=times)


class Bf16Products(OneDnnProducts):
    """With a base's own weights in bfloat16, of layers that are not tiny: factors and result are rounded, sums are
    float32. The weight is cast at each call, a seventh of what 128 rows take, and no copy is kept. All other products
    are as oneDNN has them: those of LoRA's factors, and of the unembedding.

    Where the processor has no such instructions, float32 products of the rounded factors have the same bits but for the
    order of sums.
    """

    name = BF16_PRODUCTS

    def __init__(self) -> None:
        self.are_emulated = not multiplies_bf16()

    @staticmethod
    def are_best_on(device: torch.device) -> bool:
        """Never unasked."""
        return False

    def differ_for(self, num_rows: int, weight_OI: torch.Tensor) -> bool:
        return self.round_for(num_rows, weight_OI) or super().differ_for(num_rows, weight_OI)

    def round_for(self, num_rows: int, weight_OI: torch.Tensor) -> bool:
        return weight_OI.dtype == torch.float32 and num_rows > 0 and is_worth_rounding(weight_OI.numel())

    def frozen(self, x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        if not self.round_for(len(x_NI), weight_OI):
            return super().frozen(x_NI, weight_OI, bias_O)
        y_NO = self._rounded(x_NI, weight_OI.bfloat16())
        return y_NO if bias_O is None else y_NO.add_(bias_O)

    def through(self, dy_NO: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        if not self.round_for(len(dy_NO), weight_OI):
            return super().through(dy_NO, weight_OI)
        return self._rounded(dy_NO, weight_OI.bfloat16().T)

    def _rounded(self, x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        if self.are_emulated:
            return functional.linear(x_NI.bfloat16().float(), weight_OI.float()).bfloat16().float()
        return _by_onednn(x_NI.bfloat16(), weight_OI).float()


PRODUCTS: dict[str, type[Products]] = {each.name: each for each in (OneDnnProducts, Products, Bf16Products)}
"""Best first: the first that is best on a device is the one that is used there."""


def choose_products(device: torch.device) -> Products:
    """The best for a device; torch's own run on any."""
    return next(products() for products in PRODUCTS.values() if products.are_best_on(device))


def _is_large(num_rows: int, matrix: torch.Tensor) -> bool:
    return matrix.dtype == torch.float32 and num_rows * matrix.numel() >= _WORTH_A_KERNEL


def _by_onednn(x_NI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """Strides of factors are heeded; a bias is read as though it had none."""
    bias_O = None if bias_O is None else bias_O.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
