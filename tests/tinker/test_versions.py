"""Every operation of the SDK, in each of the versions that the server is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.box import Box
from tests.tinker.sdks import VERSIONS, run_with_sdk

OPERATIONS = Path(__file__).parent / "operations.py"
SHORT = ("0.25.0", "0.38.0")
CASES = [pytest.param(version, marks=[] if version in SHORT else [pytest.mark.slow]) for version in VERSIONS]


@pytest.mark.parametrize("version", CASES)
def test_every_operation_of_the_sdk_works(box: Box, tmp_path: Path, version: str):
    ran = run_with_sdk(box, version, OPERATIONS, tmp_path)
    assert ran["version"] == version
    failed = {name: outcome for name, outcome in ran["operations"].items() if outcome != "ok"}
    assert not failed
    assert len(ran["operations"]) >= 28
