from __future__ import annotations

from pathlib import Path

import pytest

from tests import cycles

FILES = {
    "plantedhouse/__init__.py": "",
    "plantedhouse/kitchen/__init__.py": "",
    "plantedhouse/kitchen/stove.py": "from plantedhouse.cellar import wine\n",
    "plantedhouse/cellar/__init__.py": "",
    "plantedhouse/cellar/wine.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import plantedhouse.attic.chest\n"
    ),
    "plantedhouse/attic/__init__.py": "",
    "plantedhouse/attic/chest.py": "from plantedhouse.kitchen import stove\n",
    "plantedhouse/hall/__init__.py": "import plantedhouse.kitchen.stove\n",
    "plantedhouse/hall/lamp.py": "import fastapi\nimport plantedhouse.hall.bulb\n",
    "plantedhouse/hall/bulb.py": "import plantedhouse.hall.lamp\n",
}
CYCLE = ["plantedhouse.attic", "plantedhouse.cellar", "plantedhouse.kitchen"]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cycles, "PACKAGES", ("plantedhouse", "not_there"))


@pytest.mark.usefixtures("planted")
def test_a_planted_cycle_is_found_through_an_import_for_types() -> None:
    imports = cycles.package_imports(cycles.import_graph(["plantedhouse"]), {"plantedhouse"})

    assert cycles.cyclic_groups(imports) == [CYCLE]
    assert imports["plantedhouse.hall"] == {"plantedhouse.kitchen"}


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("largest", "in_cycles", "fails"), [(3, 3, False), (2, 3, True), (3, 2, True)])
def test_the_check_fails_past_either_bound(
    largest: int, in_cycles: int, fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cycles, "MAX_LARGEST_GROUP", largest)
    monkeypatch.setattr(cycles, "MAX_PACKAGES_IN_CYCLES", in_cycles)

    assert cycles.main() == fails
    printed = capsys.readouterr().out
    assert ", ".join(CYCLE) in printed
    assert "import fastapi: 1" in printed


def test_groups_that_do_not_reach_one_another_are_apart() -> None:
    imports = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"e"}, "e": {"c"}, "f": {"a"}}

    assert cycles.cyclic_groups(imports) == [["c", "d", "e"], ["a", "b"]]
