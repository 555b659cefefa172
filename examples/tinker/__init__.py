"""Training loops for the Tinker SDK, unmodified, on the sums of the demo."""
