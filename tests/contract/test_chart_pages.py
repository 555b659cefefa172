"""Charts as HTTP: which figures can be chosen, several models on one chart, their CSV, and how much they cost."""

from __future__ import annotations

import csv
import io
import uuid

import pytest
from sqlalchemy import UUID, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

from store.database import AsyncDatabase
from store.tables import CheckpointRow, ModelRow
from tests.contract.conftest import Team
from tests.contract.test_pages import counted_queries, signed_in, team_id
from tests.pages.scenes import add_model, grow

MOST_BYTES = 110_000


@pytest.fixture
async def visitor(origin, team):
    async with signed_in(origin, team.key) as browser:
        yield browser


@pytest.fixture
async def trained(team: Team, base: ModelRow, database: AsyncDatabase) -> list[str]:
    """Two models; the first was rolled back to step 3 after 5 and went on; then the end that was left behind."""
    async with database.session() as session:
        owner = await team_id(database, team)
        first, second = [await add_model(session, owner, base.id, f"=m{n}-{uuid.uuid4().hex[:6]}") for n in (1, 2)]
        nodes = await grow(session, first, 5, seed=1, age_s=1000)
        nodes[1].metrics = {**nodes[1].metrics, "my/own": 2.5, "grad_norm": "NaN"}
        await grow(session, first, 3, start=nodes[2], seed=2, age_s=500)
        await grow(session, second, 2, seed=3)
    return [str(first.id), str(second.id), str(nodes[-1].id)]


async def test_models_and_branches_are_compared(visitor, trained):
    first, second, end = trained
    page = (await visitor.get("/compare", params={"model": [first, second]})).text
    assert page.count('class="dash dash-') == 2
    assert 'value="my/own"' in page, "a metric of the client's own can be chosen"
    asked = {"model": [first, second], "metric": ["reward_mean", "my/own"]}
    answer = (await visitor.get("/live/compare/series", params=asked)).json()
    assert answer["num_steps"] == [6, 2]
    assert [x for x, _ in answer["series"]["reward"]] == [[1, 2, 3, 4, 5, 6], [1, 2]]
    assert answer["series"]["metric my/own"] == [[[2], [2.5]], [[], []]]
    with_end = (await visitor.get("/live/compare/series", params={**asked, "end": end})).json()
    assert with_end["num_steps"] == [5, 2]
    assert with_end["labels"][0].startswith("=m1")
    assert " to 0005-" in with_end["labels"][0]
    tokens = (await visitor.get("/live/compare/series", params={**asked, "x": "tokens"})).json()
    assert tokens["series"]["reward"][1][0] == [12_000, 24_000]
    seconds = (await visitor.get("/live/compare/series", params={**asked, "x": "time"})).json()
    assert seconds["series"]["reward"][1][0] == [0, 20]


async def test_curves_that_did_not_change_are_not_sent_again(visitor, trained):
    reply = await visitor.get("/live/compare/series", params={"model": trained[0]})
    known = {"If-None-Match": reply.headers["etag"]}
    again = await visitor.get("/live/compare/series", params={"model": trained[0]}, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    other = await visitor.get("/live/compare/series", params={"model": trained[0], "x": "time"}, headers=known)
    assert other.status_code == 200


async def test_the_csv_has_every_step_and_no_formula(visitor, trained):
    asked = {"model": trained[:2], "metric": ["grad_norm", "learning_rate"]}
    reply = await visitor.get("/live/compare.csv", params=asked)
    assert reply.headers["content-disposition"] == 'attachment; filename="curves.csv"'
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6", "1", "2"]
    assert {row["curve"][:3] for row in rows} == {"'=m"}
    assert rows[1]["grad_norm"] == "", "no number is no figure"
    assert float(rows[0]["learning_rate"]) == 2e-5
    assert rows[5]["tokens"] == "72000"


async def test_the_charts_of_a_model_show_what_was_chosen(visitor, trained):
    asked = {"metric": ["loss:sum", "my/own"], "smooth": "0.9", "log": "on", "x": "tokens"}
    page = (await visitor.get(f"/models/{trained[0]}", params=asked)).text
    assert 'data-chart="loss"' in page
    assert 'data-chart="reward"' not in page
    assert 'data-smooth="0.9" data-log' in page
    answer = (await visitor.get(f"/live/models/{trained[0]}/series", params=asked)).json()
    assert set(answer["series"]) == {"loss", "metric my/own"}
    assert answer["places"] == [12_000, 24_000, 36_000, 48_000, 60_000, 48_000, 60_000, 72_000]


BAD = [
    "model=x",
    f"model={uuid.UUID(int=7)}",
    "model={}&end=nothing",
    f"model={{}}&end={uuid.UUID(int=7)}",
    "model={}&metric=",
    "model={}&metric=%00",
    "model={}&smooth=1",
    "model={}&smooth=nan",
    "model={}&x=colour",
    "model={}&log=yes",
    "model={}" + "&metric=m" * 41,
    "&".join(f"model=m{n}" for n in range(6)),
]


@pytest.mark.parametrize("query", BAD)
async def test_what_cannot_be_compared_is_refused_in_a_sentence(query, visitor, trained):
    for path in ("/compare", "/live/compare/series", "/live/compare.csv"):
        reply = await visitor.get(f"{path}?{query.format(trained[0])}")
        assert reply.status_code in (404, 422), path
        assert "That is not possible" in reply.text


async def test_another_team_s_models_are_not_compared(other_team, trained, origin):
    async with signed_in(origin, other_team.key) as stranger:
        for path in ("/compare", "/live/compare/series", "/live/compare.csv"):
            assert (await stranger.get(path, params={"model": trained[0]})).status_code == 404
        assert trained[0] not in (await stranger.get("/compare")).text


_COPY = text("""
    insert into checkpoints (id, model_id, parent_id, files_id, files_model_id, step, name, status, manifest, metrics,
        num_traces, num_datums, num_tokens, mean_reward, learning_rate, loss_fn, created_at, committed_at,
        guard_checked_at)
    select md5(:to || id::text)::uuid, cast(:to as uuid), md5(:to || parent_id::text)::uuid, files_id, files_model_id,
        step, name, status, manifest, metrics, num_traces, num_datums, num_tokens, mean_reward, learning_rate, loss_fn,
        created_at, committed_at, guard_checked_at
    from checkpoints where model_id = :from_model
""")


@pytest.fixture(scope="module")
async def five(standing_team: Team, base: ModelRow, database: AsyncDatabase) -> list[str]:
    """Models with 1,000 checkpoints of 40 metrics each."""
    own = {f"mine/{number}": 0.001234567 * number for number in range(25)}
    async with database.session() as session:
        owner = await team_id(database, standing_team)
        models = [await add_model(session, owner, base.id, f"five-{n}-{uuid.uuid4().hex[:6]}") for n in range(5)]
        nodes = await grow(session, models[0], 1000, seed=1)
        extended = update(CheckpointRow).where(CheckpointRow.model_id == models[0].id)
        await session.execute(extended.values(metrics=CheckpointRow.metrics.op("||")(cast(own, JSONB))))
        for model in models[1:]:
            await session.execute(_COPY, {"to": str(model.id), "from_model": models[0].id})
            head = cast(func.md5(f"{model.id}{nodes[-1].id}"), UUID)
            model.head_checkpoint_id = await session.scalar(select(head))
    return [str(model.id) for model in models]


async def test_five_models_of_a_thousand_checkpoints_with_forty_metrics_stay_within_the_budget(
    five, standing_team, origin
):
    async with signed_in(origin, standing_team.key) as browser:
        marker = uuid.uuid4().hex
        with counted_queries(marker) as queries:
            page = await browser.get("/compare", params={"model": five}, headers={"X-Request-Id": marker})
        assert len(queries) <= 16, "\n".join(queries)
        metrics = [one.split('"')[0] for one in page.text.split('name="metric" value="')[1:]][:40]
        assert len(metrics) == 40
        for asked, across, least in (([], "time", 100), (metrics, "tokens", 20)):
            query = {"model": five, "metric": asked, "x": across}
            reply = await browser.get("/live/compare/series", params=query)
            assert len(reply.content) <= MOST_BYTES, (len(asked), across)
            curves = reply.json()["series"]["reward"]
            assert len(curves) == 5
            assert all(x == sorted(x) and len(x) >= least for x, _ in curves)
        whole = await browser.get("/compare", params={"model": five, "metric": metrics})
        assert len(whole.content) <= MOST_BYTES
