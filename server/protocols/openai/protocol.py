"""OpenAI's API, as far as it samples and trains: chats, completions, models, files and fine-tuning jobs."""

from __future__ import annotations

from server.http.protocol import Protocol
from server.protocols.openai import endpoints
from server.protocols.openai.files import endpoints as files
from server.protocols.openai.fine_tuning import endpoints as fine_tuning
from server.protocols.openai.shared.errors import OpenAIProblem

OPENAI = Protocol(
    (endpoints.router, files.router, fine_tuning.router), first=(endpoints.sampling,), refusal=OpenAIProblem
)
