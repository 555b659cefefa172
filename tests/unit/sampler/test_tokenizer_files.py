"""The archive of a base's tokenizer."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from sampler.tokenizer_files import tokenizer_archive
from wire.errors import NotFound


def test_it_has_the_tokenizer_and_no_weights(tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    archive = tokenizer_archive(str(tmp_path))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = [member.name for member in tar]
    assert names == ["chat_template.jinja", "config.json", "tokenizer.json", "tokenizer_config.json"]
    assert tokenizer_archive(str(tmp_path)) == archive


def test_weights_without_a_tokenizer_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotFound, match="tokenizer"):
        tokenizer_archive(str(tmp_path))
