"""A run watched in a real browser while it trains: the curve moves, the tree shows the rollback, the buttons work."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, Page, expect

from tests.e2e.box import Box
from tests.e2e.rollouts import chat, group, step
from tests.pages.visit import visiting


async def train(box: Box, model_id: str, name: str, seed: int) -> str:
    """One step; its checkpoint's id."""
    batch = await asyncio.to_thread(group, box, name, "12+30=?", seed=seed)
    return (await asyncio.to_thread(step, box, model_id, batch, group_size=4))["checkpoint_id"]


async def ink(page: Page) -> str:
    """The reward chart's pixels."""
    return await page.locator("[data-chart=reward] canvas").evaluate("canvas => canvas.toDataURL()")


async def test_a_run_is_watched_rolled_back_and_watched_on(box: Box, browser: Browser):
    model_id = box.fork("watched")
    async with visiting(browser, box.url) as visit:
        page = visit.page
        await visit.go(f"/models/{model_id}")
        await visit.sign_in(box.admin_env["HUD_API_KEY"])
        await expect(page.locator("[data-chart=reward] .plot")).to_have_attribute("data-empty", "no steps yet")

        first = await train(box, model_id, "watched", seed=1)
        await expect(page.locator("#charts")).to_have_attribute("data-points", "1")
        one_point = await ink(page)
        await train(box, model_id, "watched", seed=2)
        await expect(page.locator("#charts")).to_have_attribute("data-points", "2")
        await expect(page.locator("#step")).to_have_text("2")
        assert await ink(page) != one_point

        await page.get_by_role("link", name="Checkpoints", exact=True).click()
        await expect(page.locator(".mark.node")).to_have_count(2)
        await page.locator(f"#n-{first.replace('-', '')}").click()
        await page.get_by_role("link", name="Roll back to here").click()
        await expect(page.get_by_role("listitem").filter(has_text="extends the tree from step 1")).to_be_visible()
        await page.get_by_role("button", name="Make it the head").click()
        await expect(page.locator(".mark.head")).to_have_id(f"n-{first.replace('-', '')}")
        assert box.call("GET", f"/v2/models/{model_id}/head")["checkpoint_id"] == first
        assert (await asyncio.to_thread(chat, box, "watched"))["checkpoint"]["id"] == first

        # The tree is open while the next step grows a branch on it.
        third = await train(box, model_id, "watched", seed=3)
        await expect(page.locator(".mark.node")).to_have_count(3)
        await expect(page.locator(".mark.head")).to_have_id(f"n-{third.replace('-', '')}")
        await expect(page.locator(".mark.node.off-path")).to_have_count(1)

        await page.get_by_role("link", name="Training", exact=True).click()
        await expect(page.locator("[data-chart=reward] .now")).to_contain_text("went on from 0001-")
        await page.get_by_role("link", name="Pause training").click()
        await page.get_by_label("Reason").fill("to be looked at")
        await page.get_by_role("button", name="Pause training").click()
        await expect(page.get_by_role("status").filter(has_text="to be looked at")).to_be_visible()
        with pytest.raises(AssertionError, match="409 .*to be looked at"):
            await asyncio.to_thread(
                box.call, "POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 2e-3}
            )
        await page.get_by_role("link", name="Resume training").click()
        await page.get_by_role("button", name="Resume training").click()
        await expect(page.get_by_role("link", name="Pause training")).to_be_visible()
        for path, words in (("/system", "tiny-arith"), ("/keys", "headway up")):
            await visit.go(path)
            await expect(page.locator("main")).to_contain_text(words)
            assert await visit.violations() == []
        assert visit.console == []
