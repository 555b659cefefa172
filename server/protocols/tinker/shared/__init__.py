"""What all routes of the Tinker API have in common."""
