from __future__ import annotations

from pathlib import Path

import pytest

from tests import rules

HERE = Path("store/oplog/planted.py")


@pytest.fixture
def found_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Violations in a file of this text, at this place of the repository."""

    def found(text: str, place: Path = HERE) -> list[str]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
        monkeypatch.chdir(tmp_path)
        return list(rules.violations(place))

    return found


@pytest.mark.parametrize(
    "text",
    [
        "is_step = kind == 'optim_step'",
        "GRADIENTS = ('forward_backward', 'backward')",
        "QUERY = \"select from operations where kind = 'forward'\"",
        "QUERY = f\"select from operations where kind <> 'backward' and {OPEN}\"",
    ],
)
def test_a_kind_of_operation_is_named_in_its_table_alone(found_in, text: str) -> None:
    assert found_in(text)[0] == f"{HERE}:1: take the kind of operation from store.operation_kinds"
    for place in (Path("store/operation_kinds.py"), Path("server/protocols/hud/endpoints.py")):
        assert not found_in(text, place)


def test_words_about_kinds_are_no_names_of_them(found_in) -> None:
    assert not found_in('"""An optim_step applies what forward_backward and `backward` left."""\n')


def test_a_tar_file_is_unpacked_member_by_member(found_in) -> None:
    assert found_in("tar.extractall(folder, filter='data')") == [f"{HERE}:1: unpack with store.unpacking"]
