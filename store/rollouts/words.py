"""Words of texts, and what a search asks of them, as PostgreSQL's `tsvector` and `tsquery`.

A word is a run of letters and digits without regard to case; a character of a script that writes no spaces is a word of
its own. PostgreSQL's own parser has no part in this: it takes a path or an address as one word, and depends on the
database's locale.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from wire.errors import InvalidRequest

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_TERM = re.compile(r'(-?)(?:"([^"]*)"|(\S+))')
_LONGEST_WORD = 60
_MOST_PLACES = 255
"""PostgreSQL keeps no more places of a word, and none beyond the last one."""
_LAST_PLACE = 16_383
_MOST_TERMS = 20


def words_of(text: str) -> list[str]:
    """In order, folded. What is longer than any word is cut."""
    return [word.casefold()[:_LONGEST_WORD] for word in _WORD.findall(unicodedata.normalize("NFKC", text))]


def as_tsvector(text: str) -> str:
    """The words of the text with their places."""
    places = defaultdict[str, list[int]](list)
    for place, word in enumerate(words_of(text), 1):
        if len(known := places[word]) < _MOST_PLACES and place <= _LAST_PLACE:
            known.append(place)
    return " ".join(f"'{word}':{','.join(map(str, known))}" if known else f"'{word}'" for word, known in places.items())


def as_tsquery(asked: str) -> str:
    """All of the words; `"so"` as they stand there, `-this` not, `begin*` by their beginning. Raises InvalidRequest."""
    terms = [(sign, _words_of_term(quoted, bare)) for sign, quoted, bare in _TERM.findall(asked)]
    terms = [(sign, words) for sign, words in terms if words]
    if not terms or len(terms) > _MOST_TERMS:
        raise InvalidRequest(f'text must hold 1 to {_MOST_TERMS} words, as in: refund "order 17" -error')
    return " & ".join(f"!({_phrase(words)})" if sign else f"({_phrase(words)})" for sign, words in terms)


def excerpt(text: str, asked: str, around: int = 80) -> tuple[str, str, str]:
    """What stands before the first hit, the hit, and what stands behind it; the beginning of the text where the hit
    cannot be found again, which is written otherwise there."""
    for sign, quoted, bare in _TERM.findall(asked):
        words = _words_of_term(quoted, bare)
        if sign or not words:
            continue
        pattern = r"[\W_]*".join(re.escape(word.removesuffix("*")) for word in words)
        end = r"\w*" if words[-1].endswith("*") else r"(?![^\W_])"
        if hit := re.search(rf"(?<![^\W_]){pattern}{end}", text, re.IGNORECASE):
            first, last = max(0, hit.start() - around), hit.end() + around
            before = ("…" if first else "") + text[first : hit.start()]
            return before, hit[0], text[hit.end() : last] + ("…" if last < len(text) else "")
    return text[: 2 * around] + ("…" if len(text) > 2 * around else ""), "", ""


def _words_of_term(quoted: str, bare: str) -> list[str]:
    words = words_of(quoted or bare)
    if words and bare.endswith("*"):
        words[-1] += "*"
    return words


def _phrase(words: Sequence[str]) -> str:
    return " <-> ".join(f"'{word[:-1]}':*" if word.endswith("*") else f"'{word}'" for word in words)
