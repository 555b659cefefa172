"""The contenders of the race by name, and those that cannot take part, with the reason."""

from __future__ import annotations

from bench.peers import headway_service, skyrl_service, trl_process, tuft_service

CONTENDERS = {
    one.name: one
    for one in (headway_service.CONTENDER, trl_process.CONTENDER, tuft_service.CONTENDER, skyrl_service.CONTENDER)
}
ABSENT = {"open-rl": "the package registry has no distribution of it"}
