"""`POST /responses`: OpenAI's second API for conversations, whose turns are items."""
