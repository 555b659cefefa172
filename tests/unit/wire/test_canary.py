from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wire.canary import CANARY_FILE, Canary, PictureCanary
from wire.canary_picture import HEIGHT, WIDTH, canary_png
from wire.errors import CorruptCheckpoint

TEXT = Canary([1, 2], [3, 4], [-0.5, -1.0], "float32")
WITH_A_PICTURE = Canary(
    [1, 2], [3, 4], [-0.5, -1.0], "float32", PictureCanary([1, 9, 9, 2], 1, 2, [5, 6], [-1.0, -2.0])
)


@pytest.mark.parametrize("canary", [TEXT, WITH_A_PICTURE], ids=["text", "picture"])
def test_a_canary_is_read_as_it_was_written(canary: Canary, tmp_path: Path) -> None:
    canary.write(tmp_path)
    assert Canary.read(tmp_path) == canary


def test_one_of_text_alone_says_nothing_of_pictures(tmp_path: Path) -> None:
    """Samplers of earlier versions refuse a field that they do not know."""
    TEXT.write(tmp_path)
    assert set(json.loads((tmp_path / CANARY_FILE).read_text())) == {"token_ids", "greedy_ids", "logprobs", "dtype"}


def test_what_a_later_version_says_is_left_out(tmp_path: Path) -> None:
    WITH_A_PICTURE.write(tmp_path)
    facts = json.loads((tmp_path / CANARY_FILE).read_text())
    (tmp_path / CANARY_FILE).write_text(json.dumps({**facts, "sound": 1, "picture": {**facts["picture"], "frame": 2}}))
    assert Canary.read(tmp_path) == WITH_A_PICTURE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"token_ids": [1]}'])
def test_a_file_that_is_no_canary_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / CANARY_FILE).write_text(text)
    with pytest.raises(CorruptCheckpoint, match=CANARY_FILE):
        Canary.read(tmp_path)


def test_a_picture_that_lacks_a_fact_is_refused(tmp_path: Path) -> None:
    WITH_A_PICTURE.write(tmp_path)
    facts = json.loads((tmp_path / CANARY_FILE).read_text())
    del facts["picture"]["start"]
    (tmp_path / CANARY_FILE).write_text(json.dumps(facts))
    with pytest.raises(CorruptCheckpoint, match=CANARY_FILE):
        Canary.read(tmp_path)


def test_the_picture_shows_which_way_is_up() -> None:
    picture = Image.open(io.BytesIO(canary_png()))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (WIDTH, HEIGHT))
    pixels = np.asarray(picture).astype(int)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, -1].tolist()[:2] == [255, 0]
    assert pixels[-1, 0].tolist()[:2] == [0, 255]
    turned = [np.rot90(pixels, 2), pixels[:, ::-1], pixels[::-1], pixels[..., ::-1]]
    assert all(np.abs(pixels - each).mean() > 30 for each in turned)
