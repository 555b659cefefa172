"""`headway` with all of its commands, for those who look at them. (`cli.start` imports the one that is called.)"""

from __future__ import annotations

from cli.commands.table import COMMANDS
from cli.start import make_app

app = make_app(COMMANDS)
