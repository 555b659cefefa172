"""A trained model, taken out of the service: it gives elsewhere what it gives here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cli.main import app
from tests.e2e.box import Box
from tests.e2e.rollouts import chat, group, sample_of, step

CLOSE = 1e-4


def headway(box: Box, *arguments: str, typed: str = "") -> str:
    """What the command prints, in this process: another one would import torch again."""
    where = ("--url", box.url, "--key", box.env["HUD_API_KEY"], "--data-dir", str(box.data_dir))
    done = CliRunner().invoke(app, ["model", *arguments, *where], input=typed, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def logprobs_of(model: Any, sample: dict[str, Any]) -> list[float]:
    """Of the sampled tokens, as plain transformers computes them."""
    prompt, output = sample["prompt_token_ids"], sample["output_token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + output])).logits[0].float()
    chosen = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(output)[:, None])
    return chosen[:, 0].tolist()


def sampled(box: Box, name: str, prompt: str) -> dict[str, Any]:
    return sample_of(chat(box, name, prompt, temperature=1.0, seed=3)["choices"][0])


def trained(box: Box, name: str) -> str:
    model_id = box.fork(name)
    for seed in range(3):
        step(box, model_id, group(box, name, "12+30=?", seed=seed), group_size=4, learning_rate=2e-2)
    return model_id


def test_an_exported_adapter_and_a_merged_model_give_the_services_logprobs(box: Box, tiny_base: Path, tmp_path: Path):
    trained(box, "goes-home")
    samples = [sampled(box, "goes-home", prompt) for prompt in ("12+30=?", "7+8=?")]
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert headway(box, "export", "goes-home", "--to", str(adapter)) == f"wrote {adapter}\n"
    headway(box, "export", "goes-home", "--merged", "--to", str(merged))
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-arith"
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    of_base = [logprobs_of(base, sample) for sample in samples]
    with_adapter = PeftModel.from_pretrained(base, adapter)
    alone = AutoModelForCausalLM.from_pretrained(merged)
    for sample, far in zip(samples, of_base, strict=True):
        assert logprobs_of(with_adapter, sample) == pytest.approx(sample["output_logprobs"], abs=CLOSE)
        assert logprobs_of(alone, sample) == pytest.approx(sample["output_logprobs"], abs=CLOSE)
        assert far != pytest.approx(sample["output_logprobs"], abs=0.01), "it hardly learned, so this shows nothing"
    assert (merged / "chat_template.jinja").read_text() == (tiny_base / "chat_template.jinja").read_text()
    again = CliRunner().invoke(
        app, ["model", "export", "goes-home", "--to", str(adapter), "--data-dir", str(box.data_dir)]
    )
    assert (again.exit_code, "exists" in again.output) == (1, True)


def test_what_was_exported_is_imported_as_a_model_that_goes_on(box: Box, tmp_path: Path):
    trained(box, "leaves")
    archive = tmp_path / "leaves.tar"
    headway(box, "export", "leaves", "--to", str(archive))
    headway(box, "import", str(archive), "--base", "tiny-arith", "--name", "comes-back")
    there, here = (sampled(box, name, "7+8=?") for name in ("leaves", "comes-back"))
    assert here["output_token_ids"] == there["output_token_ids"]
    assert here["output_logprobs"] == pytest.approx(there["output_logprobs"], abs=1e-6)
    found = box.call("GET", "/v2/models/resolve?model=comes-back")
    assert step(box, found["id"], group(box, "comes-back", "7+8=?", seed=1), group_size=4)["step"] == 1
    assert headway(box, "delete", "leaves", typed="leaves\n").endswith("deleted leaves\n")
    assert sampled(box, "comes-back", "7+8=?")["output_token_ids"]
