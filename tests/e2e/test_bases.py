from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import chat, group, step


@pytest.mark.slow
def test_several_bases_are_served_and_trained_side_by_side(tiny_base: Path):
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--base", f"second={tiny_base}").start()
        try:
            models = {m["model_name"]: m for m in box.call("GET", "/v2/models")["items"]}
            assert set(models) == {"tiny-arith", "second"}
            fork_id = box.fork("of-second", models["second"]["id"])
            stepped = step(box, fork_id, group(box, "of-second", "12+30=?"))
            assert chat(box, "of-second")["checkpoint"]["id"] == stepped["checkpoint_id"]
            assert chat(box, "tiny-arith")["checkpoint"] is None
        finally:
            assert box.stop() == 0
