"""Who calls, as FastAPI dependencies: `KeyDep` is the key as sent, `CallerDep` the team behind it.

`CallerDep` asks for the scope `read` where a request only reads (GET), and for `train` where it changes something. The
other dependencies are for routes about which that is not true. Each of them decides before the body is read.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from fastapi import Depends, Request, WebSocket

from server.http.access import Access, DescribedKey, sent_key
from server.http.context import Context
from server.principals.callers import Caller
from server.principals.roles import Scope
from wire.errors import Forbidden

_CALLER = "headway.caller"
_READS = ("GET", "HEAD")


class SentKey(Access):
    """There is a key. The endpoint checks it in a statement that it needs anyway, and opens the body then."""

    opens_body: ClassVar[bool] = False

    async def admit(self, request: Request) -> None:
        sent_key(request)

    async def __call__(self, request: Request, _described: DescribedKey) -> str:
        """The key as sent."""
        return sent_key(request)


class KeyAccess(Access):
    """A live key with one of these scopes; without scopes, any live key. `agents`: also those of runners' agents,
    whose rollouts the route then checks. `urgent`: looked up over the pool that does not wait for other requests."""

    def __init__(self, *scopes: Scope, agents: bool = False, urgent: bool = False) -> None:
        self._scopes, self._agents, self._urgent = scopes, agents, urgent

    async def admit(self, request: Request) -> None:
        caller = await _authenticated(request, urgent=self._urgent)
        if not self._agents:
            _refuse_agents(caller)
        if scopes := self.scopes_for(request.method):
            caller.require(*scopes)

    def scopes_for(self, method: str) -> tuple[Scope, ...]:
        """Of which a key needs one."""
        return self._scopes

    async def __call__(self, request: Request, _described: DescribedKey) -> Caller:
        """Who calls."""
        return request.scope[_CALLER]


class _ByMethod(KeyAccess):
    """A key that may read or, where the request changes something, train."""

    def scopes_for(self, method: str) -> tuple[Scope, ...]:
        return ("read",) if method in _READS else ("train",)


class ScraperAccess(Access):
    """The token of scrapers and autoscalers, or an admin's key."""

    _admin = KeyAccess("admin", urgent=True)

    async def admit(self, request: Request) -> None:
        """See Access."""
        if not _context(request).metrics_tokens.accept(request.headers.get("authorization")):
            await self._admin.admit(request)

    async def __call__(self, _described: DescribedKey) -> None:
        """Nothing is known of who calls."""


async def caller_of_socket(websocket: WebSocket, key: str, *scopes: Scope) -> Caller:
    """Who opens a websocket, with a key that has one of these scopes. Raises Unauthenticated or Forbidden."""
    context: Context = websocket.app.state.context
    caller = await context.keys.caller(key)
    context.key_uses.note(caller.key_id)
    _refuse_agents(caller)
    caller.require(*scopes)
    return caller


def _refuse_agents(caller: Caller) -> None:
    if caller.runner_id is not None:
        raise Forbidden("this key is for agents on a runner: it samples and reports for the runner's own rollouts")


async def _authenticated(request: Request, *, urgent: bool) -> Caller:
    """The caller, looked up once a request."""
    caller: Caller | None = request.scope.get(_CALLER)
    if caller is None:
        key, context = sent_key(request), _context(request)
        caller = request.scope[_CALLER] = await context.keys.caller(key, urgent=urgent)
        context.key_uses.note(caller.key_id)
    return caller


def _context(request: Request) -> Context:
    return request.app.state.context


KeyDep = Annotated[str, Depends(SentKey())]
AnyCallerDep = Annotated[Caller, Depends(KeyAccess())]
CallerDep = Annotated[Caller, Depends(_ByMethod())]
ModelUserDep = Annotated[Caller, Depends(KeyAccess("sample", "train", "read"))]
"""Looks models up: to read them, or to use them."""
SampleDep = Annotated[Caller, Depends(KeyAccess("sample"))]
"""Samples."""
ReporterDep = Annotated[Caller, Depends(KeyAccess("train", "sample"))]
"""Reports about rollouts."""
TraceReporterDep = Annotated[Caller, Depends(KeyAccess("train", "sample", agents=True))]
"""Reports about one rollout, which may be one that a runner carries out."""
TeamAdminDep = Annotated[Caller, Depends(KeyAccess("keys"))]
DeployerDep = Annotated[Caller, Depends(KeyAccess("deploy"))]
"""Deploys environments."""
EnvironmentReaderDep = Annotated[Caller, Depends(KeyAccess("read", "deploy"))]
"""Looks environments up: to read them, or to deploy them."""
RunnerDep = Annotated[Caller, Depends(KeyAccess("runner"))]
"""Is a runner."""
LivingRunnerDep = Annotated[Caller, Depends(KeyAccess("runner", urgent=True))]
"""Is a runner, and shows that it lives: under load that must not come so late that it is taken for dead."""
AdminDep = Annotated[Caller, Depends(KeyAccess("admin"))]
SCRAPERS = Depends(ScraperAccess())
"""Reads figures of the service."""
