"""What a team sees of itself, and its keys."""
