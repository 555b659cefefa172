"""`POST /v1/messages` to a model of this server: a conversation in, the blocks of the answer out."""

from __future__ import annotations

import json
from functools import partial

from fastapi import Request
from fastapi.responses import Response

from server.http.checkpoint_headers import checkpoint_headers
from server.http.context import Context
from server.http.disconnects import unless_disconnected
from server.http.named_events import NamedEvents
from server.http.pictured_chats import take_pictures
from server.http.rollouts import rollout_of
from server.protocols.anthropic.events import broken, message_events
from server.protocols.anthropic.prompts import chat_of, off_policy_settings, sampling_params
from server.protocols.anthropic.replies import Reply
from server.protocols.anthropic.schemas import AnyMessages, MessagesRequest, PromptRequest, TokenCount
from server.sampling.continuing import continued_from_record, unless_refused
from server.sampling.counting import count_tokens
from server.sampling.picturing import without_picture_bytes
from server.sampling.requests import SampleRequest
from server.sampling.service import sample, stream
from server.sampling.target import Target
from server.values.validation_messages import read_as


async def own_message(context: Context, request: Request, target: Target, given: AnyMessages) -> Response:
    """A message of a model of this server, whole or streamed."""
    body = read_as(MessagesRequest, given.given())
    plain = chat_of(body)
    params, rollout = sampling_params(body, plain), without_picture_bytes(await rollout_of(request), plain)
    plain = await take_pictures(context, request, target, plain)
    body.messages = given.messages = plain.messages
    sampling = context.sampling
    chat = await continued_from_record(sampling, target, plain, rollout)
    wanted = SampleRequest([chat], params, whole=not body.stream, rollout=rollout)
    reply = Reply(body, target, wanted)
    headers = checkpoint_headers(target, off_policy_settings(body, params) if rollout else [])
    if wanted.whole:
        [answer] = await unless_disconnected(request, unless_refused(partial(sample, sampling, target), wanted, plain))
        content = json.dumps(reply.whole(answer), allow_nan=False)
        return Response(content, media_type="application/json", headers=headers)
    begun = await unless_disconnected(request, unless_refused(partial(stream, sampling, target), wanted, plain))
    events = message_events(reply, begun)
    return NamedEvents(await anext(events), events, headers, broken)


async def own_count(context: Context, request: Request, target: Target, given: AnyMessages) -> TokenCount:
    """How many tokens the prompt of such a message has, rendered anew."""
    chat, rollout = chat_of(read_as(PromptRequest, given.given())), await rollout_of(request)
    chat = await take_pictures(context, request, target, chat)
    counted = count_tokens(context.sampling, target, chat, rollout)
    return TokenCount(input_tokens=await unless_disconnected(request, counted))
