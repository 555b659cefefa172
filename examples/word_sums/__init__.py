"""Sums up to 20 + 20, asked in words: what a small language model can add, but rarely says in few words."""
