"""How alike two texts are, from 0 to 1: by rapidfuzz, NLTK and rouge-score, whose words are what stands between spaces
(ROUGE: runs of letters and digits, in small letters)."""

from __future__ import annotations

from wire.graders.shapes import Metric

_ROUGE = {f"rouge_{n}": f"rouge{n}" for n in range(1, 6)} | {"rouge_l": "rougeL"}


def similarity(metric: Metric, said: str, reference: str) -> float:
    """`fuzzy_match`: rapidfuzz's ratio. `bleu`: of the sentence, up to 4 words, smoothed by NLTK's method 1. `gleu`:
    Google's. `rouge_…`: the F-measure, without a stemmer."""
    if metric in _ROUGE:
        return _rouge(_ROUGE[metric], said, reference)
    if metric == "fuzzy_match":
        from rapidfuzz import fuzz

        return fuzz.ratio(said, reference) / 100
    return _bleu(said, reference) if metric == "bleu" else _gleu(said, reference)


def _rouge(name: str, said: str, reference: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer([name]).score(reference, said)[name].fmeasure)


def _bleu(said: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    words, wanted = said.split(), reference.split()
    if not words or not wanted:
        return float(words == wanted)
    return float(sentence_bleu([wanted], words, smoothing_function=SmoothingFunction().method1))  # pyright: ignore


def _gleu(said: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    words, wanted = said.split(), reference.split()
    return float(sentence_gleu([wanted], words)) if words and wanted else float(words == wanted)
