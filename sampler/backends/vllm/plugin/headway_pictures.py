"""A plugin of vLLM's, loaded in each of its processes before a model's modules are: pictures become pixels as in the
trainer, and without torchvision.

transformers has two image processors of each family, one on Pillow and one on torchvision, whose pixels differ where a
picture is resized: every plane takes Pillow's. And vLLM's modules of vision models import the other one, which an
environment without torchvision has not, and the video processors of the Qwens, for which there is no other.

Nothing of ours is imported here, and nothing of ours imports this: `launch.py` puts this folder on PYTHONPATH, and
vLLM finds the entry point in the dist-info beside this file.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

_IMPORT_TORCHVISION = (
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.gemma3.image_processing_gemma3",
)
_WANT_VIDEOS = (
    ("transformers.models.qwen2_5_vl.processing_qwen2_5_vl", "Qwen2_5_VLProcessor"),
    ("transformers.models.qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor"),
)


def install() -> None:
    """vLLM may call this several times in a process."""
    _prefer_pillow()
    # Asked before anything is put in its place, since the answer is cached.
    if not importlib.import_module("transformers.utils.import_utils").is_torchvision_available():
        _do_without_torchvision()


def _prefer_pillow() -> None:
    auto: Any = importlib.import_module("transformers").AutoImageProcessor
    original: Any = auto.from_pretrained
    if getattr(original, "prefers_pillow", False):
        return

    def from_pretrained(*args: Any, **named: Any) -> Any:
        return original(*args, **{"backend": "pil", **named})

    from_pretrained.prefers_pillow = True  # pyright: ignore[reportFunctionMemberAccess]
    auto.from_pretrained = from_pretrained


def _do_without_torchvision() -> None:
    # These look for torchvision themselves, and must not find what stands for it.
    for name in ("image_utils", "image_processing_backends", "video_processing_utils"):
        importlib.import_module(f"transformers.{name}")
    with _empty_torchvision():
        for name in _IMPORT_TORCHVISION:
            importlib.import_module(name)
    for module, name in _WANT_VIDEOS:
        with contextlib.suppress(ImportError, AttributeError):
            processor = getattr(importlib.import_module(module), name)
            processor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])
            processor.video_processor = NoVideos()


@contextmanager
def _empty_torchvision() -> Generator[None]:
    """Modules that can be imported and have nothing; whoever calls a function of theirs fails."""
    functional = ModuleType("torchvision.transforms.v2.functional")
    v2 = _holding("torchvision.transforms.v2", functional=functional)
    transforms = _holding("torchvision.transforms", v2=v2)
    modules = (_holding("torchvision", transforms=transforms), transforms, v2, functional)
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for module in modules:
            del sys.modules[module.__name__]


def _holding(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


class _NoArguments:
    pass


class NoVideos:
    """Stands for a video processor: what vLLM reads of it where it counts what a video would take. No request has
    any, since the server is started with a limit of none."""

    valid_kwargs = _NoArguments
    size: ClassVar = {"shortest_edge": 4096, "longest_edge": 25_165_824}
    patch_size = 16
    temporal_patch_size = 2
    merge_size = 2
    fps = 2
    min_frames = 4
    max_frames = 8
