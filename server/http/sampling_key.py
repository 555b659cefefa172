"""Admits the key of a chat or a completion before its body is read, by `server.sampling.admission`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from server.http.access import Access, DescribedKey, sent_key
from server.http.context import Context
from server.sampling.admission import SamplingKey

_SAMPLING_KEY = "headway.sampling_key"


class _SamplingAccess(Access):
    """A live key with the scope `sample`."""

    async def admit(self, request: Request) -> None:
        context: Context = request.app.state.context
        request.scope[_SAMPLING_KEY] = await context.sampling.keys.admit(sent_key(request))

    async def __call__(self, request: Request, _described: DescribedKey) -> SamplingKey:
        """The key of a request that was admitted."""
        return sampling_key(request)


def sampling_key(request: Request) -> SamplingKey:
    """The key of a request that was admitted."""
    return request.scope[_SAMPLING_KEY]


SamplingKeyDep = Annotated[SamplingKey, Depends(_SamplingAccess())]
