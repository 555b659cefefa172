"""`cli.box.forking` without libraries but for one that a test may write: ready at once."""

from unittest.mock import patch

from cli.box import forking

with patch.object(forking, "LIBRARIES", ("written_by_a_test",)):
    forking.main()
