"""OpenAI's files, as far as fine-tuning needs them."""
