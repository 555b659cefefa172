"""A plane that is given a URL of no store says so and ends, before it does anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from store.database import Database


@pytest.mark.parametrize("plane", ["server", "trainer", "sampler"])
@pytest.mark.parametrize("url", ["s3://key:very-secret@bucket", "file://data/checkpoints"])
def test_a_url_that_names_no_store_ends_a_plane_with_a_sentence(
    database: Database, postgres_url: str, tmp_path: Path, plane: str, url: str
):
    given = {"HEADWAY_DATABASE_URL": postgres_url, "HEADWAY_SAMPLER_TOKEN": "t", "HEADWAY_DATA_DIR": str(tmp_path)}
    words = [plane, *(["--base", "b"] if plane != "server" else []), "--checkpoint-store", url]
    done = CliRunner().invoke(app, words, env=given)
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1].startswith("headway: ")
    assert "Traceback" not in done.stderr
    assert "very-secret" not in done.output + done.stderr
