"""Names of environments: as its code declares it, and as it is looked up."""

from __future__ import annotations

import re

MAX_NAME = 200
RESERVED = "headway-"
"""How names of environments begin that come with the service."""


def normalized_name(declared: str) -> str:
    """The name under which an environment is deployed and found, as HUD's clients make it: lower case, spaces and
    underscores to hyphens, everything but `[a-z0-9-]` dropped, runs of hyphens made one, none at either end;
    `environment` where nothing is left."""
    name = re.sub(r"[ _]", "-", declared.strip().lower())
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]", "", name)).strip("-") or "environment"
