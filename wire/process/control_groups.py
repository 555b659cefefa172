"""The control groups (v2 or v1) that this process is in, and the memory that they leave it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(
    controller: str, cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS
) -> Iterator[tuple[Path, bool]]:
    """The folder of each group from this process up, and whether it is of v1. In a container its own is at the top."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        is_v1 = controller in controllers.split(",")
        if not (is_v1 or controllers == ""):
            continue
        top = cgroups / controller if is_v1 else cgroups
        lowest = top / path.strip("/")
        for group in (lowest, *lowest.parents):
            yield group, is_v1
            if group == top:
                break


def memory_left(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> int | None:
    """Bytes until the first of the groups is full, not counting cached files that the kernel drops for others; None
    where no group has a limit. A process that takes more is killed, whatever the machine has free."""
    found = (_room(group, is_v1) for group, is_v1 in control_groups("memory", cgroups, own_cgroups))
    return min((room for room in found if room is not None), default=None)


def _room(group: Path, is_v1: bool) -> int | None:
    names = ("limit_in_bytes", "usage_in_bytes") if is_v1 else ("max", "current")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in names)
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # `max`: no limit
        return None
    return max(0, limit - used + int(facts.get("total_inactive_file" if is_v1 else "inactive_file", 0)))
