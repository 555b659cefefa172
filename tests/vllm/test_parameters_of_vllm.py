"""The names of vLLM's parameters, as they are committed for `tests/contract/test_gateway_parameters.py`, are those of
the vLLM that is installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.contract.parameters_of_others import VLLM_CHATS, VLLM_COMPLETIONS

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
_NAMES = """
import json
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
print(json.dumps([list(kind.model_fields) for kind in (ChatCompletionRequest, CompletionRequest)]))
"""


@pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed")
def test_the_committed_names_are_those_of_the_installed_vllm():
    printed = subprocess.run([PYTHON, "-c", _NAMES], capture_output=True, text=True, check=True).stdout
    chats, completions = json.loads(printed.splitlines()[-1])
    assert set(chats) == VLLM_CHATS
    assert set(completions) == VLLM_COMPLETIONS
