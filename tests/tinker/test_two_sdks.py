"""One tree for both SDKs: what one makes, the other and the gateway find."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, group, step
from tests.tinker.sdks import run_with_sdk

PROGRAM = Path(__file__).parent / "two_sdks.py"


def test_a_model_forked_with_one_sdk_is_trained_with_the_other(box: Box, tmp_path: Path):
    model = box.fork("from-hud")
    step(box, model, group(box, "from-hud", "12+30=?"))
    (node,) = box.call("GET", f"/v2/models/{model}/checkpoints")
    folder = tmp_path / "fetched"
    folder.mkdir()
    ran = run_with_sdk(box, "0.38.0", PROGRAM, tmp_path, f"tinker://from-hud/weights/{node['name']}", str(folder))

    assert ran["after"] < ran["before"]
    assert ran["base"] == "tiny-arith"
    assert set(ran["listed"]) == {ran["state"], ran["sampled"]}
    assert ran["state"] == f"tinker://{ran['run']}/weights/after"
    (config,) = folder.rglob("adapter_config.json")
    assert json.loads(config.read_text())["peft_type"] == "LORA"
    assert (config.parent / "adapter_model.safetensors").stat().st_size > 1000

    slugs = [one["model_name"] for one in box.call("GET", "/v2/models")["items"]]
    assert {"from-hud", "mixed"} <= set(slugs)
    run = box.call("GET", "/v2/models/resolve?model=mixed")
    tree = box.call("GET", f"/v2/models/{run['id']}/checkpoints")
    assert [one["step"] for one in tree] == [0, 1]
    assert greedy(box, "mixed") != greedy(box, "from-hud"), "the slug samples what was saved for sampling"
    assert greedy(box, "mixed") == greedy(box, "mixed", checkpoint=tree[1]["name"])

    copy = ran["copied"].removeprefix("tinker://").partition("/")[0]
    step(box, copy, group(box, copy, "12+30=?"))
    assert [one["step"] for one in box.call("GET", f"/v2/models/{copy}/checkpoints")] == [0, 1]
    forked = box.fork("from-tinker", run["id"])
    assert greedy(box, "from-tinker") == greedy(box, "mixed"), forked
