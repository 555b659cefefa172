"""`cli.box.forking` where something else runs too, so that nothing can be forked. It takes a while to end."""

import threading
import time
from importlib import import_module

threading.Thread(target=time.sleep, args=(3.0,)).start()
import_module("tests.unit.cli.forking_nothing")
