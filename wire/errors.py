"""Every refusal Headway gives, named for what happened.

An error carries an HTTP status, a stable code, and one sentence for the person who reads it: what happened, and
what to do next. The SDK prints that sentence as it is.
"""

from __future__ import annotations

from typing import ClassVar

FINAL, A_FEW = 1, 3
UNTIL_MENDED = None
"""How often an operation is tried that ends in an error (`HeadwayError.tries`)."""


class HeadwayError(Exception):
    """Base of all errors that a client may see; by itself, a fault of ours.

    tries: how often an operation of the log is tried that ends in this error, before the error is its end, and the
    answer of its Idempotency-Key for ever. FINAL where the request deserves it, or the state of things that it names.
    UNTIL_MENDED, that is, never, for troubles that pass: storage, memory, device, database. A_FEW for faults of ours.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    tries: ClassVar[int | None] = A_FEW

    def __init__(self, message: str, *, retry_after_s: int | None = None, param: str | None = None) -> None:
        """`param`: the field of the request that it is about, where it is about one."""
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param


class InvalidRequest(HeadwayError):
    """The request cannot be understood, or contradicts itself."""

    status, code, tries = 422, "invalid_request", FINAL


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer. Harnesses distinguish a prompt that grew too long from a crash by
    this status and code, which are OpenAI's, and by the words of the sentence, which are OpenAI's and vLLM's."""

    status, code, tries = 400, "context_length_exceeded", FINAL

    @classmethod
    def of(cls, context_length: int, what_was_sent: str) -> ContextLengthExceeded:
        """`what_was_sent`: the prompt and its length, as the subject of a sentence."""
        return cls(
            f"This model's maximum context length is {context_length} tokens. However, {what_was_sent}, which leaves "
            "no room for an answer. Please reduce the length of the messages or the prompt."
        )


class Unauthenticated(HeadwayError):
    """No key, an unknown key, or a revoked one."""

    status, code, tries = 401, "unauthenticated", FINAL


class Forbidden(HeadwayError):
    """The key is good, but not for this."""

    status, code, tries = 403, "forbidden", FINAL


class NotFound(HeadwayError):
    """No such thing, or it belongs to another team (which reads the same)."""

    status, code, tries = 404, "not_found", FINAL


class ModelNotFound(NotFound):
    """No such model."""

    code, tries = "model_not_found", FINAL


class Conflict(HeadwayError):
    """The request is fine, the state of things is not."""

    status, code, tries = 409, "conflict", FINAL


class PlacementLost(Conflict):
    """The runner does not hold this attempt: it was cancelled, or given to another after silence."""

    code, tries = "placement_lost", FINAL


class Gone(HeadwayError):
    """It existed, and can be used no more."""

    status, code, tries = 410, "gone", FINAL


class TooLarge(HeadwayError):
    """Over a configured limit of bytes or tokens."""

    status, code, tries = 413, "too_large", FINAL


class UnsupportedEncoding(HeadwayError):
    """The body is compressed, and this route takes plain bodies only."""

    status, code, tries = 415, "unsupported_encoding", FINAL


class Unavailable(HeadwayError):
    """A plane that is needed is not there at the moment; trying again may help."""

    status, code, tries = 503, "unavailable", UNTIL_MENDED


class TimedOut(HeadwayError):
    """The work was accepted and goes on, but the answer did not come in time."""

    status, code, tries = 504, "timed_out", UNTIL_MENDED


class NothingAccumulated(Conflict):
    """optim_step without gradients."""

    code, tries = "nothing_accumulated", FINAL


class Superseded(Conflict):
    """The head moved while the operation waited or ran."""

    code, tries = "superseded", FINAL


class Unacknowledged(Superseded):
    """A gradient for whose answer nobody waited any more; an optim_step left it out.

    Written by a statement of the op log as its code, and raised from that by `error_from_code`.
    """

    code, tries = "unacknowledged", FINAL


class PromotionRejected(Conflict):
    """Every live sampler refused the new checkpoint, so the head stays."""

    code, tries = "promotion_rejected", FINAL


class NonFinite(Conflict):
    """The policy's own numbers overflowed, or would with this step. (A batch that does so is an InvalidRequest.)"""

    code, tries = "non_finite", FINAL


class NumberReused(InvalidRequest):
    """Another request was sent before under the number that its client gave it."""

    status, code, tries = 400, "number_reused", FINAL


class PredecessorMissing(Conflict):
    """A request with a lower number of the same client did not come in time, or came too late."""

    code, tries = "predecessor_missing", FINAL


class NameTaken(Conflict):
    """Something else has this name already."""

    code, tries = "name_taken", FINAL


class LeaseLost(HeadwayError):
    """Another trainer holds the model now; whatever this one was about to write is void."""

    status, code, tries = 409, "lease_lost", UNTIL_MENDED


class Interrupted(HeadwayError):
    """The trainer was stopped while it computed; the operation is queued again, and no caller gets this."""

    status, code, tries = 503, "interrupted", UNTIL_MENDED


class TrainerLost(HeadwayError):
    """The operation ended its trainer A_FEW times."""

    status, code, tries = 500, "trainer_lost", FINAL


class CorruptCheckpoint(HeadwayError):
    """A checkpoint's files do not match their manifest."""

    status, code, tries = 500, "corrupt_checkpoint", UNTIL_MENDED


class OutOfMemory(HeadwayError):
    """The device, or the machine, has no memory for this operation. Another process may have taken it, for a while; a
    batch that is too large for an empty device ends in this error after a few minutes."""

    status, code, tries = 500, "out_of_memory", 8


class DeviceLost(HeadwayError):
    """The device failed, and this process can use it no more: it ends, and another goes on."""

    status, code, tries = 500, "device_lost", A_FEW


class RanksLost(DeviceLost):
    """Another rank of this trainer is gone or stands still. Its host was taken away, say; or it died of this operation,
    which would then come to the same end a few times more."""

    status, code, tries = 500, "ranks_lost", 8


class SpillLost(HeadwayError):
    """What a trainer parked outside of its memory did not come back; the op log still has all of it."""

    status, code, tries = 503, "spill_lost", UNTIL_MENDED


def error_from_code(code: str, message: str) -> HeadwayError:
    """Rebuild an error that crossed a process border as code and message; unknown codes read as internal."""
    return _BY_CODE.get(code, HeadwayError)(message)


def _all_subclasses(cls: type[HeadwayError]) -> list[type[HeadwayError]]:
    return [cls] + [sub for child in cls.__subclasses__() for sub in _all_subclasses(child)]


_BY_CODE = {cls.code: cls for cls in _all_subclasses(HeadwayError)}

TROUBLES = frozenset(code for code, cls in _BY_CODE.items() if cls.tries is UNTIL_MENDED)
"""Codes in which no operation ends."""
FAULTS = frozenset(code for code, cls in _BY_CODE.items() if cls.tries not in (UNTIL_MENDED, FINAL))
"""Codes in which one ends after some tries."""
