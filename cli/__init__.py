"""The `headway` command: the composition root that may reach every plane."""
