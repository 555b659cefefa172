"""Adapters from elsewhere: what is refused, and with which sentence. `tests/tinker/test_two_sdks.py` has one taken."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from store.tables import TeamRow

URL = "/api/v1/external_weights_upload"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 32, "target_modules": ["q_proj"]}


def weights(**changes: Any) -> dict[str, np.ndarray]:
    a, b = np.zeros((2, 8), np.float32), np.ones((8, 2), np.float32)
    return {f"{LAYER}.lora_A.weight": a, f"{LAYER}.lora_B.weight": b, **changes}


def safetensors(tensors: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    header, content = dict[str, Any](), b""
    for name, tensor in tensors.items():
        ends = [len(content), len(content) + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": ends}
        content += tensor.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def archive(**files: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo({"config": "adapter_config.json", "model": "adapter_model.safetensors"}[name])
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return written.getvalue()


def adapter(model: bytes | None = None, **config: Any) -> bytes:
    return archive(config=json.dumps({**CONFIG, **config}).encode(), model=model or safetensors(weights()))


INFINITE = np.full((8, 2), np.inf, np.float32)
NOT_A_NUMBER = np.full((8, 2), 0x7FC0, np.uint16)

BAD = {
    "no tar archive": b"nothing",
    "has no adapter_model.safetensors": archive(config=b"{}"),
    "adapter_config.json is not JSON": archive(config=b"{", model=b""),
    "not that of a LoRA adapter": adapter(peft_type="IA3"),
    "r must be a number": adapter(r=0),
    "lora_alpha must be": adapter(lora_alpha=0.5),
    "lora_alpha must be a whole number": adapter(lora_alpha=float("nan")),
    "lora_alpha must be a whole number from 1": adapter(lora_alpha=float("inf")),
    "lora_alpha must be a whole number from 1 to 65536": adapter(lora_alpha=10**400),
    "r must be a number from 1": adapter(r=True),
    "use_rslora is not supported": adapter(use_rslora=True),
    "no whole safetensors file": adapter(safetensors(weights())[:-1]),
    "no whole safetensors": adapter(b"\xff" * 100),
    "it must be F32, F16 or BF16": adapter(safetensors(weights(), "I32")),
    "but r is 4": adapter(r=4),
    "lora_A alone": adapter(safetensors({f"{LAYER}.lora_A.weight": np.zeros((2, 8), np.float32)})),
    "no weight of a LoRA adapter": adapter(safetensors(weights(other=np.zeros((2, 2), np.float32)))),
    "numbers that are not finite": adapter(safetensors(weights(**{f"{LAYER}.lora_B.weight": INFINITE}))),
    "that are not finite": adapter(safetensors({f"{LAYER}.lora_A.weight": NOT_A_NUMBER.T}, "BF16")),
}


def _published(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")} - {".staging"}


@pytest.mark.parametrize("sentence", BAD)
async def test_what_is_no_adapter_is_refused(standing_team, base, sentence: str, checkpoint_folder: Path):
    before = _published(checkpoint_folder)
    reply = await standing_team.http.post(URL, params={"base_model": base.slug, "slug": "up"}, content=BAD[sentence])
    assert (reply.status_code, sentence in reply.json()["detail"]) == (422, True), reply.text
    assert _published(checkpoint_folder) == before


async def test_one_that_no_sampler_loads_is_no_model(standing_team, base):
    reply = await standing_team.http.post(URL, params={"base_model": base.slug, "slug": "up"}, content=adapter())
    assert (reply.status_code, "no sampler loaded the checkpoint" in reply.text) == (503, True)
    assert "up" not in [one["model_name"] for one in (await standing_team.http.get("/v2/models")).json()["items"]]
    again = await standing_team.http.post(URL, params={"base_model": "unknown", "slug": "up"}, content=adapter())
    assert again.status_code == 404


async def test_a_team_whose_storage_is_full_uploads_nothing(team, base, database):
    async with database.session() as session:
        (await session.scalars(select(TeamRow).where(TeamRow.name == team.name))).one().max_storage_bytes = 0
    refused = await team.http.post(URL, params={"base_model": base.slug, "slug": "up"}, content=adapter())
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_full")
