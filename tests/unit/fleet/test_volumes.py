from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.variables import NotConfigured, Objects
from tests.fleet.volumes import Volumes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="volumes have owners, which only root can give")
OBJECTS = Objects({"key": {"key": "first\n", "other": "x"}}, {})


def volumes(folder: Path, *given: dict[str, Any], **claims: Path) -> Volumes:
    spec = {"securityContext": {"fsGroup": 10001}, "volumes": given}
    return Volumes(spec, folder, OBJECTS, claims)


def test_an_empty_folder_can_be_written_by_the_pods_group(tmp_path: Path):
    made = volumes(tmp_path, {"name": "data", "emptyDir": {}})
    container = {"name": "c", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    [(path, source, is_read_only)] = made.mounts(container)
    assert (path, is_read_only) == ("/data", False)
    assert source.stat().st_gid == 10001


def test_a_secrets_files_are_read_only_and_follow_it(tmp_path: Path):
    given = {"secretName": "key", "defaultMode": 0o440, "items": [{"key": "key", "path": "runner"}]}
    made = volumes(tmp_path, {"name": "secret", "secret": given})
    container = {"name": "c", "volumeMounts": [{"name": "secret", "mountPath": "/etc/key"}]}
    [(_, source, is_read_only)] = made.mounts(container)
    assert is_read_only
    assert os.listdir(source) == ["runner"]
    assert (source / "runner").stat().st_mode & 0o777 == 0o440
    made.refresh(Objects({"key": {"key": "second\n"}}, {}))
    assert (source / "runner").read_text() == "second\n"


def test_a_claim_is_a_folder_that_exists(tmp_path: Path):
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    made = volumes(tmp_path, claim, models=tmp_path)
    container = {"name": "c", "volumeMounts": [{"name": "models", "mountPath": "/models", "subPath": "a"}]}
    assert list(made.mounts(container)) == [("/models", tmp_path / "a", False)]
    with pytest.raises(NotConfigured, match="models"):
        volumes(tmp_path, claim)


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "secret", "secret": {"secretName": "nobody"}},
        {"name": "secret", "secret": {"secretName": "key", "items": [{"key": "nothing", "path": "x"}]}},
    ],
)
def test_a_secret_that_is_not_there_is_waited_for(tmp_path: Path, volume: dict[str, Any]):
    with pytest.raises(NotConfigured):
        volumes(tmp_path, volume)


def test_a_volume_with_two_sources_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="exactly one source"):
        volumes(tmp_path, {"name": "v", "emptyDir": {}, "persistentVolumeClaim": {"claimName": "v"}})
