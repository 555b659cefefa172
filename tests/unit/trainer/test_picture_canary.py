"""What a canary of a base that sees holds, against transformers' own forward with pixels."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.trainer import pictured
from tests.unit.trainer.pictured import Sighted, sighted
from tests.unit.trainer.tiny import LORA, MODEL, opened, session, tiny_engine
from tests.vision.families import FAMILIES
from trainer.engine import canary as canaries
from trainer.engine.canary import compute_canary
from wire.canary import Canary, PictureCanary
from wire.canary_picture import HEIGHT, WIDTH, canary_png
from wire.extension import Media
from wire.trajectories import Turn


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Sighted:
    return sighted(request.param)


def own_logprobs(base: Sighted, canary: PictureCanary, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """By a fresh model, whose start an adapter does not change."""
    digest, model = hashlib.sha256(canary_png()).digest(), base.model()
    monkeypatch.setitem(pictured.PICTURES, digest, canary_png())
    media = Media(canary.start, canary.num_tokens, digest, WIDTH, HEIGHT)
    ids = np.array(canary.token_ids, np.int32)
    inputs = base.own_inputs(model, Turn(ids, ids[:0], np.zeros(0, np.float32), (media,)))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([canary.token_ids]), use_cache=False, **inputs).logits[0]
    return logits[canary.stop - 1 :].log_softmax(-1)


def test_logprobs_behind_the_picture_are_the_models_own(base: Sighted, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = base.engine()
    engine.open(MODEL, LORA, None, None)
    canary = compute_canary(engine._base, session(engine)).picture
    assert canary is not None
    assert canary.token_ids[canary.start : canary.stop] == [base.rule.placeholder_id] * canary.num_tokens
    assert canary.token_ids.count(base.rule.placeholder_id) == canary.num_tokens
    assert len(canary.greedy_ids) == len(canary.logprobs) == len(canary.token_ids) - canary.stop + 1
    logprobs, ids = own_logprobs(base, canary, monkeypatch).max(-1)
    assert ids.tolist() == canary.greedy_ids
    assert np.allclose(canary.logprobs, logprobs, atol=1e-4)


def test_another_picture_has_another_canary(base: Sighted, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(base.engine())
    rightly = compute_canary(engine._base, session(engine))
    turned = Image.open(io.BytesIO(canary_png())).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    into = io.BytesIO()
    turned.save(into, "PNG")
    monkeypatch.setattr(canaries, "canary_png", into.getvalue)
    wrongly = compute_canary(engine._base, session(engine))
    assert rightly.picture is not None
    assert wrongly.picture is not None
    assert np.abs(np.subtract(rightly.picture.logprobs, wrongly.picture.logprobs)).mean() > 1e-3
    assert replace(rightly, picture=None) == replace(wrongly, picture=None)


def test_a_checkpoint_of_a_base_that_sees_holds_one(base: Sighted, tmp_path: Path) -> None:
    engine = opened(base.engine())
    for part in ("adapter", "state"):
        (tmp_path / part).mkdir()
    engine.snapshot(MODEL).write(tmp_path / "adapter", tmp_path / "state")
    assert Canary.read(tmp_path / "adapter") == compute_canary(engine._base, session(engine))


def test_a_base_that_takes_text_alone_has_none() -> None:
    engine = opened(tiny_engine())
    assert compute_canary(engine._base, session(engine)).picture is None


def test_a_context_without_room_for_a_picture_has_none(base: Sighted) -> None:
    engine = opened(base.engine())
    engine._base.info = replace(engine._base.info, context_length=15)
    assert compute_canary(engine._base, session(engine)).picture is None
