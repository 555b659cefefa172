from __future__ import annotations

import pytest

from tests.fleet.images import image_of, read_image
from tests.fleet.launching import command_of, user_of
from tests.fleet.variables import NotConfigured


@pytest.mark.parametrize("name", ["server", "trainer", "sampler", "cpu", "runner"])
def test_every_image_of_ours_starts_headway_as_its_own_user(name: str):
    image = image_of(f"registry.example:5000/team/headway-{name}:1.2.3")
    assert image.entrypoint == ["headway"]
    assert image.user == "10001"
    assert image.env["PATH"].startswith("/opt/headway/bin:/usr")
    assert "/opt/health.py" in image.files
    assert "/var/lib/headway" in image.folders


def test_an_image_of_others_is_refused():
    with pytest.raises(ValueError, match="redis"):
        image_of("redis:8")


def test_only_the_last_stage_counts():
    image = read_image('FROM a AS b\nUSER 1\nCMD ["x"]\nFROM c\nENV A=1 \\\n    B="$A 2"\nCOPY one two /there/\n')
    assert image.command == []
    assert image.user == "0"
    assert image.env["B"] == "1 2"
    assert sorted(image.files) == ["/there/one", "/there/two"]


def test_a_command_replaces_the_entry_point_and_args_only_its_arguments():
    image = read_image('FROM a\nENTRYPOINT ["headway"]\nCMD ["server"]\n')
    assert command_of({}, image, {}) == ["headway", "server"]
    assert command_of({"args": ["trainer", "$(N)"]}, image, {"N": "1"}) == ["headway", "trainer", "1"]
    assert command_of({"command": ["torchrun"]}, image, {}) == ["torchrun"]


def test_a_pod_that_must_not_run_as_root_does_not():
    image = read_image("FROM a\n")
    definition = {"name": "one", "securityContext": {"runAsNonRoot": True}}
    with pytest.raises(NotConfigured, match="root"):
        user_of({}, definition, image)
    assert user_of({"securityContext": {"runAsUser": 7}}, definition, image) == 7
