"""Draws follow the processed distribution, row by row."""

from __future__ import annotations

import math

import pytest
import torch

from sampler.backends.local.token_sampling import RowSampling, sample_tokens

KEPT = [(1, 1.0), (5, 1.0), (0, 0.5), (30, 0.7), (0, 0.999), (2000, 1.0), (0, 1e-9)]


def row(uniform: float = 0.0, **changes) -> RowSampling:
    return RowSampling(
        **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "uniform": uniform, "top_logprobs": 0} | changes
    )


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.19, 1), (0.21, 2), (0.69, 2), (0.71, 4), (0.999999, 4)])
def test_a_uniform_number_goes_through_the_inverse_of_the_cumulative_probabilities(uniform, token):
    chosen = sample_tokens(logits(0.0, 0.2, 0.5, 0.0, 0.3, 0.0), [row(uniform)])[0]
    assert chosen.token_id == token
    assert chosen.logprob == pytest.approx(math.log([0, 0.2, 0.5, 0, 0.3][token]), abs=1e-6)


@pytest.mark.parametrize("vocab_size", [7, 256, 300, 1500, 5000])
def test_evenly_spread_uniforms_draw_each_token_as_often_as_it_is_likely(vocab_size):
    probabilities = torch.rand(vocab_size, generator=torch.Generator().manual_seed(1)).pow(8)
    probabilities /= probabilities.sum()
    number = 10_000
    rows = [row((n + 0.5) / number) for n in range(number)]
    counts = torch.zeros(vocab_size)
    for start in range(0, number, 500):
        part = rows[start : start + 500]
        drawn = sample_tokens(probabilities.log().expand(len(part), -1).clone(), part)
        counts += torch.bincount(torch.tensor([c.token_id for c in drawn]), minlength=vocab_size)
    assert (counts / number - probabilities).abs().max() < 2 / number


def test_the_largest_uniform_never_draws_an_impossible_token():
    for vocab_size in (5, 256, 1000):
        values = torch.full((1, vocab_size), -torch.inf)
        values[0, [1, 3]] = 0.0
        assert sample_tokens(values, [row(1.0 - 2**-53)])[0].token_id == 3


@pytest.mark.parametrize(("top_k", "top_p"), KEPT)
def test_top_k_and_top_p_keep_what_the_plain_way_keeps(top_k, top_p):
    values = torch.randn(3000, generator=torch.Generator().manual_seed(2))
    order = values.argsort(descending=True)[: top_k or None]
    probabilities = values[order].double().softmax(-1)
    kept = order[probabilities.cumsum(-1) - probabilities < top_p]
    expected = values[kept].double().log_softmax(-1)
    chosen = sample_tokens(values[None].clone(), [row(0.5, top_k=top_k, top_p=top_p, top_logprobs=20)])[0]
    assert [token_id for token_id, _ in chosen.alternatives] == kept[:20].tolist()
    assert [logprob for _, logprob in chosen.alternatives] == pytest.approx(expected[:20].tolist(), abs=1e-5)


def test_rows_do_not_touch_each_other():
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    rows = [row(0.3, temperature=0.5), row(0.3, top_k=2), row(temperature=0.0), row(0.3, banned=(7, 8), top_logprobs=3)]
    together = sample_tokens(values.clone(), rows)
    assert together == [sample_tokens(values[n : n + 1].clone(), [rows[n]])[0] for n in range(4)]


def test_greedy_takes_the_most_likely_and_reports_its_plain_logprob():
    chosen = sample_tokens(logits(0.2, 0.5, 0.3), [row(0.99, temperature=0.0, top_k=1)])[0]
    assert (chosen.token_id, chosen.logprob) == (1, pytest.approx(math.log(0.5), abs=1e-6))
