"""An adapter in PEFT's layout, and the model that `headway model export --merged` makes of it, in plain vLLM: both give
what transformers and PEFT compute, which are the service's own logprobs (`tests/e2e/test_take_home.py`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from cli.weights.adapters import Adapter
from cli.weights.bases import BaseFolder
from cli.weights.merging import merge
from tests.vllm import taken_home

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logprobs(model: Any) -> list[float]:
    ids = torch.tensor([taken_home.IDS])
    with torch.no_grad():
        found = model(ids).logits[0].float().log_softmax(-1)
    return found[:-1].gather(1, ids[0][1:, None])[:, 0].tolist()


def test_an_adapter_and_a_merged_model_give_the_same_in_vllm(tmp_path: Path):
    base = ROOT / ".headway-cache" / "tiny-arith"
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    of_base = logprobs(loaded)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    trained = peft.get_peft_model(loaded, lora)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    trained.save_pretrained(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge(BaseFolder(base), Adapter(tmp_path / "adapter"), tmp_path / "merged", None)
    command = [ROOT / ".venv-vllm/bin/python", taken_home.__file__, base, tmp_path / "adapter", tmp_path / "merged"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"merged"')))
    expected = logprobs(trained)
    assert found["base"] == pytest.approx(of_base, abs=1e-4)
    assert found["adapter"] == pytest.approx(expected, abs=1e-4)
    assert found["merged"] == pytest.approx(expected, abs=1e-4)
    assert of_base != pytest.approx(expected, abs=0.1), "the adapter hardly changes anything, so this shows nothing"
