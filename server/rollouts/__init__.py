"""What clients report about rollouts."""
