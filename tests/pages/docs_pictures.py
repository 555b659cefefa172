"""The pictures of the documentation, from those of `make screenshots`: cut off below, in 64 colours.

python -m tests.pages.docs_pictures screenshots docs/pictures
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

PICTURES = {"model": 860, "job": 720, "rollout": 860, "compare": 760}
"""Names of screenshots, and how many of their pixels are kept from above."""


def main(screenshots: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, height in PICTURES.items():
        with Image.open(screenshots / f"{name}-light.png") as whole:
            cut = whole.convert("RGB").crop((0, 0, whole.width, min(height, whole.height)))
        cut.quantize(64, dither=Image.Dither.NONE).save(out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
