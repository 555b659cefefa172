"""`POST /responses` to a model of this server: items in, the items of the answer out."""

from __future__ import annotations

import json
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from server.http.checkpoint_headers import checkpoint_headers
from server.http.context import Context
from server.http.named_events import NamedEvents
from server.http.pictured_chats import take_pictures
from server.http.rollouts import rollout_of
from server.protocols.openai.answering import Named, in_the_clients_words
from server.protocols.openai.responses.events import ResponseStream
from server.protocols.openai.responses.prompts import as_chat, constraint_of, params_of, prompt_of
from server.protocols.openai.responses.replies import Reply
from server.protocols.openai.responses.schemas import AnyResponse, ResponseRequest
from server.protocols.openai.unsupported import off_policy_settings
from server.sampling.continuing import continued, recorded_turns, unless_refused
from server.sampling.picturing import without_picture_bytes
from server.sampling.requests import SampleRequest
from server.sampling.service import sample, stream
from server.sampling.target import Target
from server.values.validation_messages import read_as


async def own_response(context: Context, request: Request, target: Target, given: AnyResponse) -> Response:
    """A response of a model of this server, whole or streamed."""
    body = read_as(ResponseRequest, given.given())
    sampling, rollout = context.sampling, await rollout_of(request)
    goes_on = body.previous_response_id is not None or not isinstance(body.input, str)
    turns = await recorded_turns(sampling, target, rollout) if goes_on else []
    asked_chat = as_chat(body, turns)
    plain, asked = prompt_of(asked_chat), constraint_of(body, asked_chat)
    rollout = without_picture_bytes(rollout, plain)
    plain = await take_pictures(context, request, target, plain)
    asked_chat.messages, body.input = plain.messages, ""
    (given.model_extra or {}).pop("input", None)
    params = params_of(body, asked_chat, asked)
    wanted = SampleRequest([continued(plain, turns)], params, whole=not body.stream, rollout=rollout)
    reply, named = Reply(body, target, wanted), Named("input", asked)
    asked_chat.return_token_ids = rollout is not None  # what is recorded is for training
    headers = checkpoint_headers(target, off_policy_settings(asked_chat, asked))
    if wanted.whole:
        work = unless_refused(partial(sample, sampling, target), wanted, plain)
        [answer] = await in_the_clients_words(request, work, named)
        return Response(
            json.dumps(reply.whole(answer), allow_nan=False), media_type="application/json", headers=headers
        )
    opening = unless_refused(partial(stream, sampling, target), wanted, plain)
    streamed = ResponseStream(reply, await in_the_clients_words(request, opening, named))
    events = streamed.events()
    return NamedEvents(await anext(events), events, headers, streamed.broken)
