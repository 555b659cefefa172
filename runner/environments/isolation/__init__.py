"""What keeps environments apart. Another one is a module with a class after `base.Isolation`, and one line here."""

from __future__ import annotations

from runner.environments.isolation.base import Isolation
from runner.environments.isolation.landlock import Landlock
from runner.environments.isolation.namespaces import Namespaces
from runner.environments.isolation.none import Unconfined

# From the strongest to none; `runner.environments.opening` takes the first that works.
ISOLATIONS: dict[str, Isolation] = {each.name: each for each in (Namespaces(), Landlock(), Unconfined())}
