"""Blobs of uploaded files stay as long as a file names them."""

from __future__ import annotations

from sqlalchemy import delete

from store.tables import FileRow
from store.verification import kept_blobs, verify
from tests.unit.store.conftest import Estate


def test_a_file_keeps_its_blob_and_takes_it_along(estate: Estate):
    name = estate.blobs.put(b'{"env": "e", "task": "t"}\n')
    facts = {"filename": "f", "purpose": "fine-tune", "num_bytes": 26, "num_lines": 1, "kind": "tasks"}
    with estate.database.session() as session:
        twins = [FileRow(team_id=estate.world.team_id, blob=name, **facts) for _ in range(2)]
        session.add_all(twins)
    estate.age_files()
    assert kept_blobs(estate.database) == [name]
    assert verify(estate.database, estate.checkpoints, estate.blobs) == []
    assert estate.collect() == []
    estate.steps(1)
    for twin, removed in ((twins[0], []), (twins[1], [name])):
        with estate.database.session() as session:
            session.execute(delete(FileRow).where(FileRow.id == twin.id))
        assert [removal.name for removal in estate.collect()] == removed
