"""What all routes of OpenAI's API share: the shape of their refusals."""
