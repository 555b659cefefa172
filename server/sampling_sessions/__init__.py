"""What clients sample in their sessions: weights that stay what they are, requests whose answers are fetched later."""
