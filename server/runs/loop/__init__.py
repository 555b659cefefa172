"""How a server carries a run out: whoever holds its lease goes on at the phase where its last step stands."""
