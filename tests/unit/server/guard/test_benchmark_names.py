from __future__ import annotations

import pytest

from server.evals.jobs import benchmark_of
from server.guard.settings import EVAL_JOBS, names_an_evaluation


@pytest.mark.parametrize(
    ("job", "benchmark"),
    [
        ("held out, step 10 (64 tasks)", "held out"),
        ("SheetBench-50", "SheetBench-50"),
        ("sums @ checkpoint 0012", "sums"),
        ("eval-2026-11-21", "eval"),
        ("held-out math (12 tasks) (4 times)", "held-out math"),
        ("2048", "2048"),
        ("2026-11-21", "2026-11-21"),
        (None, "evaluation"),
        ("", "evaluation"),
    ],
)
def test_a_series_is_named_after_its_jobs_without_their_counts(job: str | None, benchmark: str):
    assert benchmark_of(job) == benchmark


@pytest.mark.parametrize("job", ["held out, step 3 (64 tasks)", "Held-Out", "eval: sums", "my benchmark"])
def test_names_of_evaluations(job: str):
    assert names_an_evaluation(EVAL_JOBS, job)


@pytest.mark.parametrize("job", ["train m", "retrieval", "medieval history", None])
def test_names_of_training_jobs(job: str | None):
    assert not names_an_evaluation(EVAL_JOBS, job)
