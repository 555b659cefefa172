"""The URL of a store in a bucket."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

_DEFAULT_CACHE_GIB = 20.0


@dataclass(frozen=True, slots=True)
class Location:
    """`s3://BUCKET[/PREFIX][?cache=FOLDER][&cache_gib=NUMBER]`. Endpoint, region and credentials are the environment's
    (AWS_*) and never part of it."""

    bucket: str
    prefix: str
    cache: Path
    cache_bytes: int

    @classmethod
    def parse(cls, url: str, *, copies: str, copies_gib: float = _DEFAULT_CACHE_GIB) -> Location:
        """`copies`: the folder of the system's for temporary files that is the cache where the URL names none, of at
        most so many GiB. Raises
        ValueError, which does not repeat what may be a secret."""
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise ValueError("credentials belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, not in an s3:// URL")
        if not parts.netloc:
            raise ValueError("an s3:// URL names a bucket: s3://BUCKET/PREFIX")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        folder = options.pop("cache", "") or str(Path(tempfile.gettempdir()) / copies)
        num_bytes = _bytes(options.pop("cache_gib", str(copies_gib)))
        if options or parts.fragment:
            raise ValueError("an s3:// URL takes the options cache and cache_gib, and no others")
        if not Path(folder).is_absolute():
            raise ValueError(f"cache={folder} of the s3:// URL is not an absolute path")
        return cls(parts.netloc, unquote(parts.path).strip("/"), Path(folder), num_bytes)


def _bytes(gib: str) -> int:
    try:
        num_bytes = int(float(gib) * 2**30)
    except (ValueError, OverflowError):
        num_bytes = 0
    if num_bytes <= 0:
        raise ValueError(f"cache_gib={gib} of the s3:// URL is not a positive number")
    return num_bytes
