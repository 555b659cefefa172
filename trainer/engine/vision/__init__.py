"""Pictures: the towers of bases that see, what a tower makes of a picture, and where that goes in a pack."""
