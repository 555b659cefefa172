from __future__ import annotations

from pathlib import Path

import pytest

from trainer.engine.losses import LOSSES, LossOptions
from trainer.engine.losses.reference import render

DOCS = Path(__file__).parents[3] / "docs" / "losses.md"


def test_the_committed_reference_is_what_the_code_says() -> None:
    # Not a plain ==: pytest would print a page of diff where one sentence says what to do.
    same = DOCS.read_text(encoding="utf-8") == render()
    assert same, "docs/losses.md is not what the docstrings say: run `make docs` and commit the result"


@pytest.mark.parametrize("loss", LOSSES)
def test_the_reference_names_every_loss_and_key(loss: str) -> None:
    text = render()
    assert f"\n## {loss}\n" in text
    assert all(f"| `{key}` |" in text for key in [*LOSSES[loss].defaults(), *LossOptions.defaults()])
