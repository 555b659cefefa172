"""OpenAI's wire: chat and text completions, its errors and its streams."""
