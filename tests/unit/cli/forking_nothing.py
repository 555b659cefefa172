"""`cli.box.forking` without libraries: ready at once."""

from unittest.mock import patch

from cli.box import forking

with patch.object(forking, "LIBRARIES", ()):
    forking.main()
