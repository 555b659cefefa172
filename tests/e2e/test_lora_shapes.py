"""Models of different adapters on one base: chosen at the fork, trained and sampled at the same time."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud
from tests.e2e.rollouts import greedy, group, step, worst_disagreement

PROMPT = "12+30=?"
SHAPES: dict[str, dict[str, Any]] = {
    "wide": {"rank": 64, "alpha": 16, "seed": 3},
    "of-attention": {"rank": 2, "targets": ["attn"]},
    "with-a-head": {"rank": 7, "alpha": 14, "targets": ["mlp", "unembed"]},
}


def forked(box: Box, name: str, lora: dict[str, Any]) -> str:
    body = {"source_model_id": box.base_id(), "name": name, "lora": lora}
    return box.call("POST", "/v2/models/fork", body)["id"]


def adapter_of(box: Box, model_id: str) -> tuple[dict[str, Any], bytes]:
    """The configuration and the weights of the head, as they are taken home."""
    url = f"{box.url}/v2/models/{model_id}/checkpoints/head/adapter"
    reply = httpx.get(url, headers=box.headers, timeout=60, trust_env=False).raise_for_status()
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
        files = {member.name.rpartition("/")[2]: tar.extractfile(member) for member in tar if member.isreg()}
    config, weights = files["adapter_config.json"], files["adapter_model.safetensors"]
    assert config is not None
    assert weights is not None
    return json.load(config), weights.read()


def test_shapes_train_and_sample_beside_one_another(box: Box):
    made = run_hud("models", "fork", "tiny-arith", "--name", "of-the-sdk", "--yes", "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    models = {"of-the-sdk": box.call("GET", "/v2/models/resolve?model=of-the-sdk")["id"]}
    models |= {name: forked(box, name, lora) for name, lora in SHAPES.items()}

    def train(name: str) -> float:
        for seed in range(2):
            step(box, models[name], group(box, name, PROMPT, seed=seed), group_size=4)
        return worst_disagreement(box, models[name], group(box, name, "7+8=?", seed=9))

    before = greedy(box, "tiny-arith")
    with ThreadPoolExecutor(len(models)) as clients:
        assert max(clients.map(train, models)) < 1e-4
        after = list(clients.map(lambda name: greedy(box, name), models))
    assert all(answer != before for answer in after)

    for name, model_id in models.items():
        config, _ = adapter_of(box, model_id)
        shown = box.call("GET", f"/v2/models/{model_id}")["lora"]
        assert (config["r"], config["lora_alpha"]) == (shown["rank"], shown["alpha"])
        assert {target.rpartition(".")[2] for target in config["target_modules"]} == set(shown["layers"])
        assert {**shown, **SHAPES.get(name, {"rank": 16, "alpha": 32, "seed": 0})} == shown
    root = box.fork("goes-on-wide", models["wide"])
    assert step(box, root, group(box, "goes-on-wide", PROMPT), group_size=4)["step"] == 1


def test_a_fork_starts_in_the_bits_of_a_tinker_run_of_the_same_shape(box: Box):
    rank, seed = 5, 1234
    ours = forked(box, "as-in-tinker", {"rank": rank, "seed": seed, "targets": ["attn", "mlp", "unembed"]})
    other = forked(box, "of-another-seed", {"rank": rank, "targets": ["attn", "mlp", "unembed"]})
    for name, model in (("as-in-tinker", ours), ("of-another-seed", other)):
        step(box, model, group(box, name, PROMPT), learning_rate=0.0, group_size=4)

    session = box.call("POST", "/api/v1/create_session", {})["session_id"]
    asked = {"session_id": session, "model_seq_id": 0, "base_model": "tiny-arith"}
    asked |= {"lora_config": {"rank": rank, "seed": seed}}
    run = box.call("POST", "/api/v1/create_model", asked)["model_id"]
    saved = {"model_id": run, "seq_id": 1, "path": "start"}
    promise = box.call("POST", "/api/v1/save_weights", saved)["request_id"]
    assert "path" in box.call("POST", "/api/v1/retrieve_future", {"request_id": promise})
    [started] = [m for m in box.call("GET", "/v2/models")["items"] if m["name"].startswith(run.partition(":")[0][:8])]

    (config, weights), (theirs, start) = adapter_of(box, ours), adapter_of(box, started["id"])
    assert (config, weights) == (theirs, start)
    assert adapter_of(box, other)[1] != weights
    assert started["lora"] == box.call("GET", f"/v2/models/{ours}")["lora"]


@pytest.fixture
def wide_box(tiny_base: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    box = Box(tmp_path_factory.mktemp("box") / "data", tiny_base, "--lora-rank", "64", "--lora-targets", "attn")
    yield box.start()
    assert box.stop() == 0


@pytest.mark.slow
def test_a_box_has_a_default_of_its_own(wide_box: Box):
    model = wide_box.call("GET", f"/v2/models/{wide_box.fork('plain')}")
    assert {**model["lora"], "rank": 64, "alpha": 32, "targets": ["attn"]} == model["lora"]
    assert step(wide_box, model["id"], group(wide_box, "plain", PROMPT), group_size=4)["step"] == 1
    assert "LoRA of rank 64, alpha 32 on attn" in (wide_box.data_dir / "up.log").read_text()
