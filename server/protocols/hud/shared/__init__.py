"""What all of HUD's routes have in common."""
