"""The tokenizer of a base as an archive: for clients that tokenize themselves and reach no hub."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from wire.errors import NotFound

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "chat_template.*",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
)
_MOST_BYTES = 64 * 1024**2


def tokenizer_archive(weights: str) -> bytes:
    """A tar archive of the files by which a tokenizer is loaded, all at its top level; the same bytes each time. Blocks
    on the disk. Raises NotFound for weights without them."""
    folder = folder_of(weights)
    paths = sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()})
    if not any(path.name.startswith(("tokenizer", "vocab")) for path in paths):
        raise NotFound(f"there are no files of a tokenizer in {folder.name!r}")
    if sum(path.stat().st_size for path in paths) > _MOST_BYTES:
        raise NotFound(f"the files of this tokenizer take more than {_MOST_BYTES} bytes; copy them by other means")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for path in paths:
            content = path.read_bytes()
            about = tarfile.TarInfo(path.name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return written.getvalue()


def folder_of(weights: str) -> Path:
    """Where the weights are: a folder, or the cache of the hub, which a sampler has filled before it serves."""
    if Path(weights).exists():
        return Path(weights)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(weights, local_files_only=True))
