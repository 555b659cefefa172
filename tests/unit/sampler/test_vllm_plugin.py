"""What is put into vLLM's processes where the base has a vision tower."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoImageProcessor

from sampler.backends.vllm.command import served_picture_cache, server_command, server_environment
from sampler.backends.vllm.parsers import Parsers
from sampler.backends.vllm.settings import VllmSettings
from tests.vision.families import FAMILIES, save_vision_family

NOTHING = Parsers(None, None)
IN_A_PROCESS_OF_VLLMS = """
import sys
from importlib.metadata import entry_points

(ours,) = [each for each in entry_points(group="vllm.general_plugins") if each.name == "headway_pictures"]
ours.load()()
ours.load()()
from transformers import AutoImageProcessor
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.utils.import_utils import is_torchvision_available

assert not is_torchvision_available()
assert "torchvision" not in sys.modules
processor = Qwen3VLProcessor.from_pretrained(sys.argv[1])
print(type(processor.image_processor).__name__, type(AutoImageProcessor.from_pretrained(sys.argv[1])).__name__)
"""


def ran(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_without_torchvision_processors_are_pillows_and_need_no_videos(tmp_path: Path):
    save_vision_family(FAMILIES["qwen3_vl"], tmp_path)
    environment = server_environment(1, has_vision=True)
    assert ran(IN_A_PROCESS_OF_VLLMS, str(tmp_path), environment=environment) == " ".join(
        ["Qwen2VLImageProcessorPil"] * 2
    )


def test_with_torchvision_pillow_is_preferred_to_it(monkeypatch: pytest.MonkeyPatch):
    asked = list[dict[str, Any]]()
    monkeypatch.syspath_prepend(server_environment(1, has_vision=True)["PYTHONPATH"].split(os.pathsep)[0])
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda *_, **named: asked.append(named))
    importlib.import_module("headway_pictures")._prefer_pillow()
    AutoImageProcessor.from_pretrained("base")
    AutoImageProcessor.from_pretrained("base", backend="torchvision")
    assert [named["backend"] for named in asked] == ["pil", "torchvision"]


def test_a_text_base_has_neither_the_plugin_nor_a_limit(tmp_path: Path):
    settings = VllmSettings(python="python")
    assert server_environment(1).get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    assert "--limit-mm-per-prompt" not in server_command(tmp_path, 1, settings, NOTHING)
    command = server_command(tmp_path, 1, settings, NOTHING, with_pictures=True)
    assert command[command.index("--limit-mm-per-prompt") + 1] == '{"image": 64, "video": 0}'


def test_what_is_kept_of_pictures_is_as_vllms_own_arguments_say():
    assert served_picture_cache(VllmSettings()) == 4 * 1024**3
    assert served_picture_cache(VllmSettings(extra_args=("--mm-processor-cache-gb", "0.5"))) == 512 * 1024**2
    assert served_picture_cache(VllmSettings(extra_args=("--mm-processor-cache-gb=0",))) == 0
    for wrong in ("much", "-1"):
        with pytest.raises(ValueError, match="mm-processor-cache-gb"):
            served_picture_cache(VllmSettings(extra_args=(f"--mm-processor-cache-gb={wrong}",)))
