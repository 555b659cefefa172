"""The pages in Chromium: nothing on the console, nothing for axe to find, and usable with the keyboard alone."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from playwright.async_api import Browser, expect
from sqlalchemy import select

from server.auth.issuing import Grant
from server.pages.router import router
from server.pages.shared.routing import PageRoute
from store.blob_stores.file import FileBlobStore
from store.database import AsyncDatabase
from store.tables import AlarmRow, ApiKeyRow, CheckpointRow, EvalRow, ModelRow, TrainerRow
from tests.contract.conftest import Team, new_team
from tests.contract.environments import deployed_environment_of
from tests.contract.test_pages import key_of, team_id
from tests.contract.test_rollout_pictures import png, rollout_with_picture
from tests.contract.test_tasksets import task, upload
from tests.pages.rollouts import add_groups, add_job, pass_over, tell, trace_row, turns
from tests.pages.runs import add_run
from tests.pages.scenes import add_model, grow
from tests.pages.visit import OF_COLOURS, Visit, visiting


@dataclass(frozen=True)
class Scene:
    """A model that went back twice, one that was never trained, their base; a job, and two of its rollouts; a run."""

    trained: str
    fresh: str
    base: str
    job: str
    told: str
    untold: str
    alarm: str
    taskset: str
    team: str
    key: str
    trainer: str
    node: str
    run: str
    environment: str
    seen: str
    seen_else: str


@pytest.fixture(scope="module")
async def own_team(origin: str, database: AsyncDatabase) -> AsyncIterator[Team]:
    """A team whose lists hold nothing of other tests: axe's time grows with the rows of a page."""
    async with new_team(origin, database) as team:
        yield team


@pytest.fixture(scope="module")
async def scene(
    own_team: Team, base: ModelRow, database: AsyncDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    async with database.session() as session:
        owner = await team_id(database, own_team)
        trained = await add_model(session, owner, base.id, f"trained-{uuid.uuid4().hex[:6]}")
        first = await grow(session, trained, 12, seed=1, age_s=4000)
        second = await grow(session, trained, 3, start=first[7], seed=2, age_s=3000)
        await grow(session, trained, 4, start=first[9], seed=3, age_s=2000)
        second[0].pinned_at, first[2].files_removed_at = second[0].committed_at, first[2].committed_at
        fresh = await add_model(session, owner, base.id, f"fresh-{uuid.uuid4().hex[:6]}")
        raised = alarm(trained)
        session.add_all([score(trained, second[0], 0.5), score(trained, second[-1], 0.75), raised])
        trainer = (await session.scalars(select(TrainerRow).where(TrainerRow.base_id == base.id))).first()
        key = (await session.scalars(select(ApiKeyRow).where(ApiKeyRow.team_id == owner))).first()
        assert trainer is not None
        assert key is not None
        job = await add_job(session, owner, "a job with a name that goes on and on and on", group_size=2)
        told, untold, *_ = await add_groups(session, job, [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.5, None]], trained)
        run = await add_run(session, trained, steps=8)
        environment = await deployed_environment_of(session, owner, "arith")
    tasks = [task(f"task-{number}", args={"text": "a question " * 9 * number}) for number in range(8)]
    taskset_id = (await upload(own_team, *tasks, name="looked-at")).json()["taskset_id"]
    blobs = FileBlobStore(tmp_path_factory.mktemp("blobs"))  # all of it is small enough for the rows
    await tell(database, blobs, told, checkpoint=second[-1])
    await tell(database, blobs, untold, checkpoint=second[-1], is_reported=False)
    async with database.session() as session:
        await pass_over(session, told, second[-1], turns(3, 40)[0])
    seen = [await rollout_with_picture(own_team, png(colour=colour)) for colour in ("teal", "red")]
    ids = [row.id for row in (trained, fresh, base, job, told, untold, raised)]
    others = [taskset_id, owner, key.id, trainer.id, first[5].id, run.id, environment.id, *seen]
    return Scene(*map(str, [*ids, *others]))


def score(model: ModelRow, checkpoint: CheckpointRow, value: float) -> EvalRow:
    known = {"model_id": model.id, "checkpoint_id": checkpoint.id, "mixed": False}
    return EvalRow(benchmark="SheetBench-50", score=value, higher_is_better=True, **known)


def alarm(model: ModelRow) -> AlarmRow:
    known = {"model_id": model.id, "subject_id": uuid.uuid4(), "evidence": {}, "outcome": {"pause": "it is paused"}}
    said = "The reward rose and the held-out score fell."
    return AlarmRow(rule="held_out", step=3, message=said, actions=["pause"], state="done", **known)


@pytest.fixture(scope="module")
async def session(browser: Browser, origin: str, own_team: Team, database: AsyncDatabase) -> Any:
    """The cookies of an operator who signed in."""
    key = await key_of(database, own_team, Grant("operator", "admin"))
    async with visiting(browser, origin, key) as visit:
        return await visit.page.context.storage_state()


PAGES = [
    "/",
    "/models/{trained}",
    "/models/{trained}?tab=checkpoints",
    "/models/{trained}?tab=checkpoints&node=base",
    "/models/{trained}?tab=tasks",
    "/models/{trained}?tab=guard",
    "/models/{trained}/head?to=base",
    "/models/{trained}/pause",
    "/models/{trained}/resume",
    "/models/{trained}/edit",
    "/models/{trained}/delete",
    "/models/{trained}/checkpoints/{node}/delete",
    "/models/{trained}/alarms/{alarm}/undo",
    "/models/{trained}/guard/rules/held_out",
    "/models/{trained}/guard/evaluations",
    "/models/{trained}?x=time&smooth=0.9&log=on&metric=loss:sum&metric=reward_mean",
    "/compare?model={trained}&model={fresh}&metric=reward_mean&metric=grad_norm",
    "/models/{fresh}",
    "/models/{fresh}?tab=checkpoints",
    "/models/{base}",
    "/jobs",
    "/jobs/{job}",
    "/jobs/{job}?tab=rollouts",
    "/traces?min_reward=0",
    "/traces/compare?a={told}&b={untold}",
    "/trace/{told}?open=2",
    "/trace/{told}?by=trainer",
    "/trace/{untold}",
    "/trace/{seen}?open=2",
    "/traces/compare?a={seen}&b={seen_else}",
    "/help",
    "/help/guard",
    "/tasksets",
    "/tasksets/{taskset}?task=task-1",
    "/system",
    "/system/trainer/{trainer}/drain",
    "/team",
    "/team/audit",
    "/runs",
    "/runs/{run}",
    "/runs/{run}/describe",
    "/runs/{run}/cancel",
    "/environments",
    "/environments/{environment}",
    "/playground",
    "/keys",
    "/keys/new",
    "/keys/{key}/rotate",
    "/keys/{key}/revoke",
    "/teams/{team}",
    "/teams/{team}/remove",
]
LONGER_THAN_A_TURN_MS = 2000
"""Of a page that keeps itself up to date, which asks every 1.5 s."""
DARK = "rgb(14, 17, 22)"
"""The ground of a page."""
SEEN_ELSEWHERE = {"/login", "/keys/made"}
"""Without a session, and after a form."""
MOVED = {"/models", "/models/"}
NO_PAGES = (
    "/static/",
    "/live/",
    "/help/pictures/",
    "/trace/{trace_id}/json",
    "/trace/{trace_id}/pictures/",
    "/models/{model_id}/checkpoints/{checkpoint}/adapter",
)


def test_every_page_is_looked_at(scene: Scene):
    routes = [context.original_route for context in iter_route_contexts(router.routes)]
    pages = [route for route in routes if isinstance(route, PageRoute) and "GET" in route.methods]
    lacking = {route.path for route in pages if not route.path.startswith(NO_PAGES)} - SEEN_ELSEWHERE - MOVED
    for path in PAGES:
        asked = path.format(**vars(scene)).partition("?")[0]
        lacking.discard(next(route.path for route in pages if route.path_regex.fullmatch(asked)))
    assert not lacking


WITH_ALL_COLOURS = {
    "/",
    "/models/{trained}",
    "/models/{trained}?tab=checkpoints&node=base",
    "/models/{trained}?tab=guard",
    "/trace/{told}?open=2",
    "/traces/compare?a={told}&b={untold}",
    "/runs/{run}",
    "/system",
    "/help/guard",
}
"""The pages that are looked at in the dark too."""


async def test_axe_finds_nothing_nothing_sticks_out_and_the_console_is_empty(scene, browser: Browser, origin, session):
    """Also in a narrow window, and in the dark."""
    assert set(PAGES) >= WITH_ALL_COLOURS
    found: list[str] = []
    async with visiting(browser, origin, storage_state=session, color_scheme="light") as visit:
        await visit.bring_axe()
        for path in PAGES:
            assert await visit.go(path.format(**vars(scene))) == 200, path
            found += await _problems(visit, path)
            if path in WITH_ALL_COLOURS:
                found += await _problems_in_the_dark(visit, path)
        assert visit.console == []
        assert await visit.go("/nothing") == 404
        found += await _problems(visit, "/nothing")
        await visit.page.context.clear_cookies()
        await visit.go("/login")
        found += await _problems(visit, "/login")
    assert not found, "\n".join(found)


async def _problems(visit: Visit, path: str) -> list[str]:
    await visit.settled()
    found = [f"{path}: {one}" for one in await visit.violations()]
    await visit.page.set_viewport_size({"width": 360, "height": 740})
    width = await visit.page.evaluate("document.documentElement.scrollWidth")
    await visit.page.set_viewport_size({"width": 1360, "height": 900})
    return [*found, f"{path} is {width} wide in a window of 360"] if width > 360 else found


async def _problems_in_the_dark(visit: Visit, path: str) -> list[str]:
    await visit.page.emulate_media(color_scheme="dark")
    assert await visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == DARK
    found = [f"{path} in the dark: {one}" for one in await visit.violations(*OF_COLOURS)]
    await visit.page.emulate_media(color_scheme="light")
    return found


@pytest.mark.slow
async def test_the_colours_of_all_pages_stand_out_in_the_dark(scene, browser: Browser, origin, session):
    found: list[str] = []
    async with visiting(browser, origin, storage_state=session, color_scheme="dark") as visit:
        await visit.bring_axe()
        for path in PAGES:
            await visit.go(path.format(**vars(scene)))
            await visit.settled()
            found += [f"{path}: {one}" for one in await visit.violations(*OF_COLOURS)]
    assert not found, "\n".join(found)


async def test_a_printed_link_opens_after_signing_in(scene, browser: Browser, origin, own_team):
    async with visiting(browser, origin) as visit:
        await visit.go(f"/models/{scene.trained}?tab=checkpoints")
        await expect(visit.page).to_have_title("Sign in · Headway")
        await visit.sign_in("hw_no")
        await expect(visit.page.get_by_role("alert")).to_contain_text("Unknown API key")
        await visit.sign_in(own_team.key)
        await expect(visit.page.get_by_role("heading", name="Checkpoint tree")).to_be_visible()
        assert visit.page.url.endswith(f"/models/{scene.trained}?tab=checkpoints")


async def test_every_chart_draws_its_steps(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.go(f"/models/{scene.trained}")
        await expect(visit.page.locator("#charts")).to_have_attribute("data-points", "19")
        for chart in await visit.page.locator(".chart").all():
            drawn = await chart.locator("canvas").evaluate(
                "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
            )
            assert drawn > 10
        await expect(visit.page.locator("[data-chart=reward] .now")).to_contain_text("±")
        await visit.page.locator("[data-chart=reward] .u-over").hover(position={"x": 3, "y": 50})
        await expect(visit.page.locator("[data-chart=entropy] .now")).to_contain_text("0001-")


async def test_curves_of_several_models_are_compared_and_saved_as_a_picture(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        page = visit.page
        await visit.go(f"/compare?model={scene.trained}")
        await page.locator("summary", has_text="Branches of").click()
        await page.get_by_role("checkbox", name=re.compile("head")).check()
        await page.get_by_role("checkbox", name=re.compile("^0012-")).check()
        await page.get_by_label("Smoothing").select_option("0.9")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#charts")).to_have_attribute("data-points", "14")
        await page.locator("[data-chart=reward] .u-over").hover(position={"x": 3, "y": 50})
        await expect(page.locator("[data-chart=reward] .now")).to_have_text(re.compile(r"^0\.\d+ \| 0\.\d+ · step 1$"))
        looks = await page.locator("#curves line").evaluate_all(
            "all => all.map((one) => getComputedStyle(one).strokeDasharray + getComputedStyle(one).stroke)"
        )
        assert len(set(looks)) == 2
        async with page.expect_download() as saved:
            await page.get_by_role("button", name="PNG of Reward").click()
        assert (await saved.value).suggested_filename == "Reward.png"
        assert visit.console == []


async def test_the_tree_is_walked_with_arrow_keys_and_a_node_opened_with_enter(
    scene, browser: Browser, origin, session
):
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.go(f"/models/{scene.trained}?tab=checkpoints")
        focused = visit.page.locator(":focus")
        await visit.page.locator("#n-base").focus()
        await visit.page.keyboard.press("ArrowRight")
        await expect(focused).to_have_attribute("aria-label", re.compile("^Checkpoint 0001-"))
        await visit.page.keyboard.press("ArrowRight")
        await visit.page.keyboard.press("Enter")
        await visit.page.wait_for_url("**&open=*")
        assert await visit.page.locator(".mark.node").count() == 19


async def test_from_a_job_through_its_groups_to_the_tokens_of_a_turn(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        page = visit.page
        await visit.go("/jobs")
        await page.get_by_label("Name").fill("goes on and")
        await page.keyboard.press("Enter")
        await page.get_by_role("link", name="a job with a name").click()
        await page.get_by_role("link", name=re.compile("^teach 1$")).click()
        await expect(page.get_by_role("img", name="Rewards: 0, 1")).to_be_visible()
        await page.get_by_role("link", name="task-0").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await page.locator(f"a[href^='/trace/{scene.told}']").click()
        await page.get_by_role("link", name="Open turn 1").click()
        await expect(page.get_by_role("region", name="Tokens of turn 1").locator("tbody tr")).to_have_count(40)
        of_all = "all => all.map((one) => getComputedStyle(one).textDecoration.replace(/rgb.*/, ''))"
        looks = await page.locator(".heat span").evaluate_all(of_all)
        assert len(set(looks)) == 5, "levels differ in more than their colour"
        assert visit.console == []


async def test_a_picture_loads_small_and_opens_whole_with_the_keyboard(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        page = visit.page
        await visit.go(f"/trace/{scene.seen}")
        picture = page.get_by_role("img", name="Picture, 400 × 300 pixels, clicked at 200, 20")
        await expect(picture).to_be_visible()
        await expect(picture).to_have_js_property("naturalWidth", 320)
        assert await picture.evaluate("(img) => [img.clientWidth, img.clientHeight]") == [320, 240]
        mark, box = await page.locator("circle.click").bounding_box(), await picture.bounding_box()
        assert mark is not None
        assert box is not None
        middle = mark["x"] + mark["width"] / 2 - box["x"], mark["y"] + mark["height"] / 2 - box["y"]
        assert middle == pytest.approx((160, 16), abs=1), "where the click went, on the small picture"
        await page.get_by_role("link", name="open in full size").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/pictures/*")
        assert await page.locator("img").evaluate("(img) => img.naturalWidth") == 400
        assert visit.console == []


async def test_a_rollout_is_watched_while_it_runs(browser: Browser, origin, session, own_team, database, tmp_path):
    async with database.session() as opened:
        row = trace_row(await team_id(database, own_team), reward=None)
        opened.add(row)
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.go(f"/trace/{row.id.hex}")
        await expect(visit.page.get_by_role("heading", name="Nothing on record yet")).to_be_visible()
        await tell(database, FileBlobStore(tmp_path), row, num_turns=1, is_reported=False)
        await expect(visit.page.get_by_role("heading", name="Turn 1: Agent")).to_be_visible()
        await visit.page.get_by_text("40 tokens, mean").click()
        await own_team.http.post(f"/v2/trace/{row.id}/exit", json={"status": "completed", "reward": 0.75})
        await expect(visit.page.locator(".facts")).to_contain_text("0.7500")
        await expect(visit.page.locator(".strip")).to_be_visible()


async def test_a_model_is_paused_and_resumed_with_the_keyboard_and_without_scripts(
    scene, browser: Browser, origin, session
):
    async with visiting(browser, origin, storage_state=session, java_script_enabled=False) as visit:
        keys, focused = visit.page.keyboard, visit.page.locator(":focus")
        await visit.go(f"/models/{scene.fresh}")
        await visit.page.get_by_role("link", name="Pause training").focus()
        await keys.press("Enter")
        await expect(focused).to_have_attribute("id", "reason")
        await keys.type("it looks odd")
        await keys.press("Enter")
        await expect(visit.page.get_by_role("status").filter(has_text="it looks odd. Sampling goes on")).to_be_visible()
        await visit.page.get_by_role("link", name="Resume training").focus()
        await keys.press("Enter")
        await visit.page.get_by_role("button", name="Resume training").focus()
        await keys.press("Enter")
        await expect(visit.page.get_by_role("link", name="Pause training")).to_be_visible()


async def test_a_new_key_is_shown_and_gone_after_a_reload(browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.go("/keys")
        await visit.page.get_by_role("link", name="New key").click()
        await visit.page.get_by_label("Name", exact=True).fill("shown once")
        await visit.page.get_by_role("button", name="Make the key").click()
        secret = await visit.page.get_by_label("Secret").input_value()
        assert secret.startswith("hw_")
        assert await visit.page.get_by_label("The same key for the Tinker SDK").input_value() == f"tml-{secret}"
        assert await visit.violations() == []
        await visit.page.reload()
        await expect(visit.page.get_by_role("heading", name="The key was shown already")).to_be_visible()
        assert secret not in await visit.page.content()
        assert visit.console == []


async def test_the_theme_button_stays_pressed(browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session, color_scheme="light") as visit:
        await visit.go("/")
        await visit.page.get_by_role("button", name="Switch between dark and light").click()
        await visit.go("/system")
        await expect(visit.page.locator("html")).to_have_attribute("data-theme", "dark")
        assert await visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == DARK


async def test_a_hidden_tab_asks_nothing(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.page.clock.install()
        await visit.go("/system")
        await expect(visit.page.locator("#live-state")).to_have_text("Live")
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        async with visit.page.expect_request("**/system"):
            await visit.page.clock.fast_forward(LONGER_THAN_A_TURN_MS)
        hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
        await visit.page.evaluate(f"{hide}; document.dispatchEvent(new Event('visibilitychange'))")
        await visit.page.wait_for_load_state("networkidle")
        asked.clear()
        for _ in range(3):
            await visit.page.clock.fast_forward(LONGER_THAN_A_TURN_MS)
        await visit.page.evaluate("fetch('/nothing')")
        assert asked == [f"{origin}/nothing"]
        show = "Object.defineProperty(document, 'hidden', {value: false, configurable: true})"
        async with visit.page.expect_request("**/system"):
            await visit.page.evaluate(f"{show}; document.dispatchEvent(new Event('visibilitychange'))")


async def test_a_session_that_ended_leads_to_the_form(scene, browser: Browser, origin, session):
    async with visiting(browser, origin, storage_state=session) as visit:
        await visit.page.clock.install()
        await visit.go(f"/models/{scene.trained}")
        await expect(visit.page.locator("#live-state")).to_have_text("Live")
        await visit.page.context.clear_cookies()
        await visit.page.clock.fast_forward(LONGER_THAN_A_TURN_MS)
        await visit.page.wait_for_url("**/login?next=**")
