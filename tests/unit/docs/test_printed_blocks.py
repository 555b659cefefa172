"""Of pages that are carried out, each block says what is done with it, and each file is checked as Python."""

from __future__ import annotations

import re

import pytest

from tests.e2e.printed_blocks import BACKGROUND, REPLACED, blocks

WHAT = re.compile(r"run|output|file: [\w./-]+|not run: .+")


def is_said(what: str) -> bool:
    return bool(WHAT.fullmatch(what) or BACKGROUND.fullmatch(what))


@pytest.mark.parametrize("page", REPLACED)
def test_every_block_says_what_is_done_with_it(page: str) -> None:
    unsaid = [block.body for block in blocks(page) if not is_said(block.what or "")]
    assert unsaid == []


@pytest.mark.parametrize("page", REPLACED)
def test_what_is_replaced_is_there(page: str) -> None:
    carried_out = "".join(block.body for block in blocks(page) if block.what and not block.what.startswith("not run"))
    assert [old for old in REPLACED[page] if old not in carried_out] == []
