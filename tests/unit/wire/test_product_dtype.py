"""Whether a processor multiplies bfloat16, by what Linux says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire.process.product_dtype import multiplies_bf16, probe_ids


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [
        ("fpu avx512f avx512_bf16 avx512_vnni", True),
        ("fpu avx512f amx_bf16 amx_tile amx_int8", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx512_bf16_of_tomorrow", False),
    ],
)
def test_the_flags_of_the_processor_decide(tmp_path: Path, flags: str, has_it: bool):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
    assert multiplies_bf16(cpuinfo) is has_it


def test_a_kernel_that_says_nothing_has_none(tmp_path: Path):
    (tmp_path / "of-arm").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert not multiplies_bf16(tmp_path / "of-arm")
    assert not multiplies_bf16(tmp_path / "of macOS")


def test_the_probe_fits_any_vocabulary():
    assert all(0 <= token < 7 for token in probe_ids(7))
    assert len(set(probe_ids(49152))) == len(probe_ids(49152))
