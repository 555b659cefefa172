"""The `headway` command: the composition root, which imports every plane."""
