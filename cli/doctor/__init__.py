"""What `headway doctor` checks beside the invariants: what the place where it runs can reach, and may do there."""
