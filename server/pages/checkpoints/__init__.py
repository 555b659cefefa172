"""A model's checkpoint tree, and moving its head."""
