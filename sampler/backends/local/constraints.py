"""What may come next in an answer that has to be of a form: llguidance's masks over the vocabulary.

Calls are written as the base's chat template writes them, which is as this backend reads them.
"""

# V vocabulary

from __future__ import annotations

import json
import threading
from itertools import groupby

import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sampler.backends.base import SamplerInfo
from sampler.chat.call_forms import HERMES, CallForm
from sampler.chat.json_schemas import bounded_schema, function_parameters, plain_grammar
from sampler.vocabulary import Vocabulary
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ForcedCalls

_MORE_CALLS = "{0,15}"
"""Without a limit, a policy that has not learned to end would call and call."""


class Form:
    """How far one answer has come in its form. For one thread."""

    def __init__(self, matcher: LLMatcher, info: SamplerInfo) -> None:
        self._matcher = matcher
        self._vocab_size = info.vocab_size
        self._has_end_token = bool(info.eos_ids)

    def allowed_V(self) -> Tensor:
        """Boolean [V]: what may come next; end tokens where the answer may end. All false after an `error`."""
        if self._matcher.is_error():
            return torch.zeros(1, dtype=torch.bool)
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        return allowed[: self._vocab_size]

    def take(self, token_id: int) -> bool:
        """This token came. Whether the answer is over: it is complete, and the base has no token to end it with."""
        self._matcher.consume_token(token_id)
        if self._has_end_token or self._matcher.is_error():
            return False
        return not bool(self.allowed_V().any()) and not self._matcher.is_error()

    @property
    def error(self) -> str:
        """Why nothing may come next although the answer is not complete: the form is too complex. Else empty."""
        return self._matcher.get_error()


class Constraints:
    """Forms for one base. Any thread."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        info: SamplerInfo,
        form: CallForm | None = HERMES,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._info = info
        self._form = form
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._text_V = torch.tensor([bool(vocabulary.bytes_of(token_id)) for token_id in range(info.vocab_size)])

    def start(self, constraint: Constraint) -> Form:
        """The form of a new answer. May take a second. Raises InvalidRequest for what cannot be kept to."""
        try:
            return self._start(constraint)
        except InvalidRequest as refusal:
            refusal.param = "constraint"
            raise

    def _start(self, constraint: Constraint) -> Form:
        try:
            matcher = LLMatcher(self._of_the_base(), self._grammar(constraint), log_level=0)
        except ValueError as error:  # of texts that are not Unicode
            raise InvalidRequest(f"the sampler cannot keep to this constraint: {error}") from error
        if problem := matcher.get_error() or self._emptiness(constraint, matcher):
            raise InvalidRequest(f"the sampler cannot keep to this constraint: {_reason(problem)}")
        return Form(matcher, self._info)

    def _grammar(self, constraint: Constraint) -> str:
        if constraint.json_schema is not None:
            return LLMatcher.grammar_from_json_schema(bounded_schema(constraint.json_schema))
        if constraint.regex is not None:
            return LLMatcher.grammar_from_regex(constraint.regex)
        if constraint.choice is not None:
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(map(json.dumps, constraint.choice))}")
        if constraint.grammar is not None:
            return LLMatcher.grammar_from_lark(plain_grammar(constraint.grammar))
        assert constraint.calls is not None
        return LLMatcher.grammar_from_lark(self._calls(constraint.calls))

    def _calls(self, calls: ForcedCalls) -> str:
        """Raises InvalidRequest where it is not known how the base writes a call."""
        form = self._form
        if form is None:
            raise InvalidRequest(
                "a call cannot be forced: this base's chat template writes calls in a form that the local sampler does "
                "not know; ask for the call in the prompt, or use the vLLM backend"
            )
        several = "" if calls.single or not form.several else f" ({self._literal(form.separator)} call){_MORE_CALLS}"
        rules = [f"start: {self._literal(form.section_open)} call{several} {self._literal(form.section_close)}"]
        rules.append(f"call: {' | '.join(f'call_{index}' for index in range(len(calls.tools)))}")
        for index, tool in enumerate(calls.tools):
            function = tool["function"]
            name = json.dumps(function["name"], ensure_ascii=False)[1:-1] if form.is_object else function["name"]
            begin = self._literal(f"{form.before}{name}{form.between}")
            rules.append(f"call_{index}: {begin} arguments_{index} {self._literal(form.after)}")
            rules.append(f"arguments_{index}: %json {bounded_schema(function_parameters(function))}")
        return "\n".join(rules)

    def _literal(self, text: str) -> str:
        """A text in Lark's notation; control tokens by their ids."""
        pieces = list[str]()
        for is_character, symbols in groupby(self._vocabulary.symbols_of(text), key=lambda symbol: len(symbol) == 1):
            if is_character:
                pieces.append(json.dumps("".join(symbols)))
            else:
                ids = (",".join(map(str, self._vocabulary.ids_of(name))) for name in symbols)
                pieces += [f"<[{one}]>" for one in ids]
        return " ".join(pieces)

    def _emptiness(self, constraint: Constraint, matcher: LLMatcher) -> str:
        """What is wrong with a schema that only refers to itself: nothing but the end may come first."""
        if constraint.json_schema is None or (Form(matcher, self._info).allowed_V() & self._text_V).any():
            return ""
        return "no JSON text is of this schema"

    def _of_the_base(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                words = TokenizerWrapper(_Words(self._tokenizer, self._vocabulary, self._info))
                end_ids = list(self._info.eos_ids) or [self._info.vocab_size]
                self._tokens = LLTokenizer(words, eos_token=end_ids)
            return self._tokens


class _Words:
    """The vocabulary as answers are put together from it: of llguidance's own reading of a tokenizer, tokens such as
    `<tool_call>` are no text. Behind it stands an end token for bases that have none, which is never drawn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, info: SamplerInfo) -> None:
        self._tokenizer = tokenizer
        ids = range(info.vocab_size + 1)
        silent = [token_id for token_id in ids if not vocabulary.bytes_of(token_id)]
        self.eos_token_id = info.eos_ids[0] if info.eos_ids else info.vocab_size
        self.bos_token_id = None
        self.special_token_ids = silent
        self.tokens = [vocabulary.bytes_of(token_id) or b"<|%d|>" % token_id for token_id in ids]

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):  # llguidance tries whether bytes are taken
            raise TypeError("texts only")
        return self._tokenizer.encode(text, add_special_tokens=False)


def _reason(problem: str) -> str:
    """The first line; of a regex parser's errors, which draw the place below it, with the cause that comes last."""
    if "coerce_one_of" in problem:  # an option of the library, which no client can set
        return "of a schema's oneOf, exactly one must fit, which is not served; say anyOf"
    first, *drawn = problem.strip().splitlines()
    causes = [f" {line.removeprefix('error: ')}" for line in drawn if line.startswith("error: ")]
    return "".join([first, *causes[-1:]])[:500]
