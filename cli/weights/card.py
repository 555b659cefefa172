"""The README of a merged model, made of its adapter's."""

from __future__ import annotations

import re
from pathlib import Path

from cli.weights.download import README

_HEADER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_BASE = re.compile(r"^base_model: .*$", re.MULTILINE)
_LOADING = re.compile(r"^## Load it\n.*\Z", re.DOTALL | re.MULTILINE)
_MERGED = "Its LoRA adapter is merged into the base: load it as any model of `transformers`.\n"


def write_card(adapter: Path, out: Path) -> None:
    """The facts stay, and it loads without PEFT."""
    text = (adapter / README).read_text()
    header = _HEADER.match(text)
    base = _BASE.search(header[0]) if header else None
    lines = ["---", "library_name: transformers", *([base[0]] if base else []), "tags:", "- headway", "---", ""]
    body = _LOADING.sub("", text[header.end() if header else 0 :]).rstrip()
    (out / README).write_text("\n".join([*lines, body.lstrip(), "", _MERGED]))
