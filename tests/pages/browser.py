"""The browser of the tests: an installed Chromium, else the one that Playwright downloads.

Best Chromium's headless shell, which has no windows, bars and profiles to look after: opening a page took it half the
processor time of the whole browser (0.24 against 0.47 s).

`python -m tests.pages.browser` opens it once, to see whether it is there; where it is not, installs Debian's as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Error, async_playwright
from playwright.sync_api import sync_playwright

HEADLESS_SHELL = "chromium-headless-shell"
INSTALLED = (HEADLESS_SHELL, "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
# Chromium's own sandbox does not start for root, nor in most containers.
# The byte code of a script is kept from one page to the next: else scripts are compiled again every few pages.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--js-flags=--no-flush-bytecode"]


def installed_browser() -> str | None:
    """The path of an installed one; None: Playwright has its own, if any."""
    return next((path for name in INSTALLED if (path := shutil.which(name))), None)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=installed_browser(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


def main() -> int:
    if (problem := _problem()) and installed_browser() is None and _can_install():
        subprocess.run(["apt-get", "update"], check=False)
        install = ["apt-get", "install", "-y", "--no-install-recommends"]
        if subprocess.run([*install, HEADLESS_SHELL], check=False).returncode:  # not every release has it
            subprocess.run([*install, "chromium"], check=False)
        problem = _problem()
    if problem:
        print(  # noqa: T201
            f"The tests of the pages need a browser, and none starts ({problem}). Install Chromium "
            f"(Debian: apt-get install {HEADLESS_SHELL}), or let Playwright: .venv/bin/python -m playwright install "
            "chromium",
            file=sys.stderr,
        )
        return 1
    return 0


def _problem() -> str | None:
    """Why none starts; None if one does."""
    try:
        with sync_playwright() as playwright:
            playwright.chromium.launch(executable_path=installed_browser(), args=ARGUMENTS).close()
    except Error as error:
        return error.message.strip().splitlines()[0]
    return None


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


if __name__ == "__main__":
    sys.exit(main())
