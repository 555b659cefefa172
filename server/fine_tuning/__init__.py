"""Runs that are made from uploaded files, as OpenAI's fine-tuning API asks for them."""
