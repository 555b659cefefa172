"""Somebody at a browser: signs in, listens to the console, and asks axe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.pages.browser import AXE

VIOLATIONS = """(rules) => axe.run(
    {resultTypes: ["violations"], ...(rules.length ? {runOnly: rules} : {})}).then(({violations}) => violations.map(
    ({id, nodes}) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`))"""

UNTIL_DRAWN = """() => new Promise((done) => {
    const look = () => document.querySelector("#charts[data-points], main:not(:has(#charts))")
        ? done() : requestAnimationFrame(look);
    look();
})"""
"""Playwright's own waiting would bring its scripts to each page."""
OF_COLOURS = ("color-contrast", "link-in-text-block")
"""Rules that another colour scheme can break."""
PATIENCE_MS = 90_000
"""How long anything on a page may take to happen, on a machine with a lot to do."""
expect.set_options(timeout=PATIENCE_MS)


class Visit:
    """A page of the browser, and what its console said."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.console: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.console.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"{page.url}: {error}"))

    async def go(self, path: str) -> int:
        reply = await self.page.goto(self.origin + path)
        assert reply is not None
        return reply.status

    async def sign_in(self, key: str) -> None:
        await self.page.fill("#key", key)
        await self.page.click("button.primary")

    async def settled(self) -> None:
        """Wait until the scripts have done what they do when a page opens."""
        await self.page.wait_for_load_state()
        async with asyncio.timeout(PATIENCE_MS / 1000):
            await self.page.evaluate(UNTIL_DRAWN)

    async def bring_axe(self) -> None:
        """To every page that is opened from now on: `violations` brings it to one page in twice the time."""
        await self.page.context.add_init_script(AXE.read_text())

    async def violations(self, *rules: str) -> list[str]:
        """What axe finds, by all rules if none are given. The debugger brings it in, whom the policy does not bind."""
        if not await self.page.evaluate("'axe' in window"):
            debugger = await self.page.context.new_cdp_session(self.page)
            await debugger.send("Runtime.evaluate", {"expression": f"{AXE.read_text()};0"})
            await debugger.detach()
        return await self.page.evaluate(VIOLATIONS, list(rules))

    async def text(self, selector: str) -> str:
        return await self.page.inner_text(selector)


@asynccontextmanager
async def visiting(browser: Browser, origin: str, key: str | None = None, **options: Any) -> AsyncIterator[Visit]:
    """A fresh browser profile; signed in, if there is a key."""
    context = await browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **options})
    try:
        visit = Visit(await context.new_page(), origin)
        if key is not None:
            await visit.go("/login")
            await visit.sign_in(key)
        yield visit
    finally:
        await context.close()
