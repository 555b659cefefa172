"""Changes that a chat depends on are acknowledged when they are in force everywhere: `server.gateway.lookups` remembers
for a moment what keys, heads and samplers were, and in that moment a chat may still see what was."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Depends

from server.remembering import outlast_what_is_remembered


async def _outlasting() -> AsyncGenerator[None]:
    yield
    await outlast_what_is_remembered()


InForce = Depends(_outlasting, scope="function")
"""For routes: their answer goes out when no server process can have an older answer in mind."""
