"""Ranks that share a base multiply in bfloat16 as one process does, and all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from structlog.testing import capture_logs

from tests.distributed.processes import RankProcesses
from tests.distributed.test_sharded_base import _learnt, _same
from tests.unit.trainer.tiny import tiny_model
from trainer.distributed.group import RankGroup
from trainer.distributed.loading import load_sharded_base
from trainer.engine import bf16_check
from trainer.engine.base_model import load_base_model
from wire.process import product_dtype
from wire.process.product_dtype import NO_INSTRUCTIONS, ProductDtype

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor and torch compute no bfloat16 products"
)


@pytest.fixture(scope="module")
def stored_in_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    tiny_model().to(torch.bfloat16).save_pretrained(folder)
    return folder


@contextmanager
def processor(*, has_bf16: bool) -> Iterator[None]:
    """One for which no layer is too small."""
    with (
        patch.object(bf16_check, "multiplies_bf16", return_value=has_bf16),
        patch.object(product_dtype, "LEAST_WEIGHTS", 0),
    ):
        yield


def test_ranks_multiply_as_one_process_does_to_the_bit(two_ranks: RankProcesses, stored_in_bf16: Path) -> None:
    two_ranks.run(equals_the_whole_base, stored_in_bf16)


def equals_the_whole_base(group: RankGroup, folder: Path) -> None:
    with processor(has_bf16=True):
        base = load_sharded_base(str(folder), ranks=group, products=ProductDtype.BF16)
        whole = load_base_model(str(folder), products=ProductDtype.BF16)
        assert base.product_dtype is whole.product_dtype is ProductDtype.BF16
        _same(_learnt(base), _learnt(whole))
        exact_P, _ = _learnt(load_base_model(str(folder)))
        assert not torch.equal(_learnt(base)[0], exact_P)


def test_one_rank_without_the_instructions_has_all_multiply_in_float32(
    two_ranks: RankProcesses, stored_in_bf16: Path
) -> None:
    assert two_ranks.run(loads_where_rank_1_has_none, stored_in_bf16) == [("float32", [NO_INSTRUCTIONS])] * 2


def loads_where_rank_1_has_none(group: RankGroup, folder: Path) -> tuple[str, list[str]]:
    with processor(has_bf16=group.rank == 0), capture_logs() as logs:
        base = load_sharded_base(str(folder), ranks=group, products=ProductDtype.BF16)
    assert base.product_dtype is not None
    return base.product_dtype.value, [entry["reason"] for entry in logs if entry["event"] == "no_bf16_products"]
