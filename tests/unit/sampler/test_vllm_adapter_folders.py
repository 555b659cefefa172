"""Adapter files as vLLM sees them: what a killed sampler leaves behind does not stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sampler.backends.vllm.adapter_folders import AdapterFolders
from sampler.backends.vllm.base_tensors import BaseTensors

BASE = BaseTensors({"model.layers.0.self_attn.q_proj.weight": (8, 4)})
ANOTHER_SAMPLER = """
import sys
from pathlib import Path
from sampler.backends.vllm.adapter_folders import AdapterFolders
from sampler.backends.vllm.base_tensors import BaseTensors
folders = AdapterFolders(Path(sys.argv[1]), BaseTensors({"model.layers.0.self_attn.q_proj.weight": (8, 4)}))
print(folders.take("hw-held", None), flush=True)
sys.stdin.read()
"""


def test_folders_of_a_killed_sampler_go_and_those_of_a_live_one_stay(tmp_path: Path):
    command = [sys.executable, "-c", ANOTHER_SAMPLER, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    held = Path(other.stdout.readline().strip())
    first = AdapterFolders(tmp_path, BASE)
    assert (held / "adapter_model.safetensors").exists(), "its sampler lives"
    other.kill()
    other.communicate()
    second = AdapterFolders(tmp_path, BASE)
    assert not held.parent.exists()
    kept = second.take("hw-kept", None)
    first.close()
    assert [folder.name for folder in tmp_path.iterdir()] == [kept.parent.name]
    second.close()
