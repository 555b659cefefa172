"""One tree for both SDKs: what one makes, the other and the gateway find."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import httpx

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
    uploaded = _upload(box, config.parent)
    assert uploaded.endswith("/weights/uploaded")
    assert greedy(box, "elsewhere") == greedy(box, "mixed"), "the same weights"
    elsewhere = box.call("GET", "/v2/models/resolve?model=elsewhere")["id"]
    step(box, elsewhere, group(box, "elsewhere", "12+30=?"))
    assert [one["step"] for one in box.call("GET", f"/v2/models/{elsewhere}/checkpoints")] == [0, 1]

    forked = box.fork("from-tinker", run["id"])
    assert greedy(box, "from-tinker") == greedy(box, "mixed"), forked


def _upload(box: Box, folder: Path) -> str:
    """The path of a model whose tree begins with this adapter."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            tar.add(folder / name, name)
    url = f"{box.url}/api/v1/external_weights_upload?base_model=tiny-arith&slug=elsewhere"
    reply = httpx.post(url, content=written.getvalue(), headers=box.headers, timeout=60, trust_env=False)
    assert reply.status_code == 200, reply.text
    return reply.json()["tinker_path"]
