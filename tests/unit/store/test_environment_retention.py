"""Archives of environments: kept while something needs them, and for a while after."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from store.tables import BuildLogLineRow, EnvironmentBuildRow, EnvironmentRow, PlacementRow
from tests.unit.store.conftest import Estate

DAY_S = 86_400.0


class Environments:
    """An environment with builds, each of which ended, or was begun, two days ago."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        with estate.database.session() as session:
            self.row = EnvironmentRow(team_id=estate.world.team_id, name="e", declared_name="e")
            session.add(self.row)

    def build(self, version: int | None, state: str = "succeeded", *, serving: bool = False) -> EnvironmentBuildRow:
        name = self.estate.blobs.put(f"archive of {version} {state}".encode())
        with self.estate.database.session() as session:
            long_ago = func.clock_timestamp() - timedelta(days=2)
            build = EnvironmentBuildRow(team_id=self.row.team_id, state=state, source="upload", archive_blob=name)
            build.created_at = long_ago
            if version is not None:
                build.environment_id, build.version = self.row.id, version
            if state in ("succeeded", "failed", "cancelled"):
                build.ended_at = long_ago
            session.add(build)
            session.flush()
            if serving:
                statement = update(EnvironmentRow).where(EnvironmentRow.id == self.row.id)
                session.execute(statement.values(current_build_id=build.id))
            return build

    def kept(self) -> set[str]:
        self.estate.age_files()
        self.estate.collect(keep_payloads_s=DAY_S)
        return {blob.name for blob in self.estate.blobs.stored() if blob.name}


@pytest.fixture
def environments(estate: Estate) -> Environments:
    return Environments(estate)


def test_the_archive_of_the_serving_version_stays_and_those_before_it_go(environments: Environments):
    environments.build(1)
    environments.build(2, "failed")
    serving = environments.build(3, serving=True)
    waiting = environments.build(4, "queued")
    assert environments.kept() == {serving.archive_blob, waiting.archive_blob}


def test_the_archive_of_an_old_version_stays_while_something_plays_it(environments: Environments):
    old, serving = environments.build(1), environments.build(2, serving=True)
    with environments.estate.database.session() as session:
        placement = PlacementRow(kind="session", team_id=old.team_id, build_id=old.id, timeout_s=1)
        session.add(placement)
    assert environments.kept() == {old.archive_blob, serving.archive_blob}
    with environments.estate.database.session() as session:
        session.execute(update(PlacementRow).values(state="ended", outcome="completed"))
    assert environments.kept() == {serving.archive_blob}


def test_an_upload_that_nobody_deployed_goes(environments: Environments):
    environments.build(None, "uploaded")
    assert environments.kept() == set()


def test_logs_go_but_for_those_of_the_serving_and_the_newest_version(environments: Environments):
    builds = [environments.build(1), environments.build(2, serving=True), environments.build(3, "failed")]
    builds.append(environments.build(4, "failed"))
    with environments.estate.database.session() as session:
        for build in builds:
            session.add(BuildLogLineRow(build_id=build.id, attempt=1, number=0, message="built"))
            session.execute(update(EnvironmentBuildRow).values(num_log_lines=1))
    for keep_planes_s, kept in ((3 * DAY_S, {1, 2, 3, 4}), (DAY_S, {2, 4})):
        environments.estate.collect(keep_planes_s=keep_planes_s)
        with environments.estate.database.session() as session:
            left = set(session.scalars(select(BuildLogLineRow.build_id)))
        assert {build.version for build in builds if build.id in left} == kept


def test_the_archive_of_a_removed_environment_goes(environments: Environments):
    environments.build(1, serving=True)
    with environments.estate.database.session() as session:
        session.execute(update(EnvironmentRow).values(removed_at=func.clock_timestamp()))
    assert environments.kept() == set()
