"""Tokens from files that are replaced: every line is accepted, the first is sent."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.certificates import replace
from wire.process.replaceable_files import Replaceable
from wire.process.tokens import Tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("old\n")
    return path


def test_a_plain_token_is_sent_and_accepted_and_no_other():
    tokens = Tokens("secret")
    assert tokens.sent == "secret"
    assert tokens.accept("Bearer secret")
    assert tokens.accept(b"Bearer secret")
    assert not any(map(tokens.accept, ["Bearer secre", "Bearer secret ", "secret", "", None]))


def test_the_end_of_line_of_a_secret_that_was_made_of_a_file_is_no_part_of_it():
    tokens = Tokens("secret\r\n")
    assert tokens.sent == "secret"
    assert tokens.accept("Bearer secret")
    assert not Tokens("\n")
    assert Tokens("two words").accept("Bearer two words")


@pytest.mark.parametrize("wrong", ["a\r\nHost: another", "one\ntwo", "a\x00b"])
def test_a_plain_token_that_fits_into_no_header_is_refused_and_not_repeated(wrong: str):
    with pytest.raises(ValueError, match="a token is one line") as refused:
        Tokens(wrong)
    assert wrong not in str(refused.value)


def test_without_a_token_nothing_is_accepted():
    tokens = Tokens()
    assert not tokens
    assert not any(map(tokens.accept, ["Bearer ", "", None]))
    with pytest.raises(ValueError, match="no token"):
        _ = tokens.sent


def test_a_file_goes_before_the_plain_one_and_is_read_again_when_it_is_replaced(file: Path):
    tokens = Tokens("plain", file)
    assert tokens.sent == "old"
    assert not tokens.accept("Bearer plain")
    replace(file, "old\nnew\n")
    assert tokens.sent == "old"
    assert tokens.accept("Bearer new")
    assert tokens.accept("Bearer old")
    replace(file, "new\n")
    assert tokens.sent == "new"
    assert not tokens.accept("Bearer old")


def test_a_link_to_another_folder_counts_as_replaced(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "data").symlink_to("one")
    tokens = Tokens(file=tmp_path / "data" / "token")
    assert tokens.sent == "one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "data")
    assert tokens.sent == "two"


@pytest.mark.parametrize("broken", ["", "\n \n", "two words\n", "påss\n", None])
def test_a_file_that_becomes_unreadable_leaves_the_tokens_in_force(file: Path, broken: str | None):
    tokens = Tokens(file=file)
    if broken is None:
        file.unlink()
    else:
        replace(file, broken)
    assert tokens.sent == "old"
    replace(file, "new")
    assert tokens.sent == "new"


def test_a_file_whose_mode_changed_is_read_again(file: Path):
    seen: list[int] = []
    files = Replaceable([file], lambda: seen.append(file.stat().st_mode & 0o777))
    file.chmod(0o640)
    files.current()
    files.current()
    assert seen[1:] == [0o640]


def test_a_file_that_could_not_be_opened_is_read_when_that_is_over(file: Path):
    tokens = Tokens(file=file)
    replace(file, "new")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        assert tokens.sent == "old", "no descriptor is left"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert tokens.sent == "new"


@pytest.mark.parametrize("wrong", ["", "\n", "a secret of two words\n", "påss\n", "\ufefftoken", "x" * 70_000])
def test_a_file_without_a_token_is_refused_at_first_and_not_repeated(file: Path, wrong: str):
    file.write_text(wrong)
    with pytest.raises(ValueError, match=str(file)) as refused:
        Tokens(file=file)
    assert not wrong.strip() or wrong.strip() not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Tokens(file=tmp_path / "nowhere")
