"""`headway` with all of its commands, for those who look at them. (`cli.start` imports the one that is called.)"""

from __future__ import annotations

from cli.start import make_app
from cli.table import COMMANDS

app = make_app(COMMANDS)
