"""Two-digit sums: the smallest task on which reinforcement learning visibly climbs."""
