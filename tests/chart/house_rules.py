"""What no schema says and every document of the chart keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.chart.commands import misused
from tests.chart.hardening import unsafe
from tests.chart.hooks import unready_hooks
from tests.chart.names import unusable
from tests.chart.networks import open_ways
from tests.chart.pods import pods
from tests.chart.rendering import Document
from tests.chart.secrets import plain_secrets, plain_secrets_of
from tests.chart.selectors import dangling
from tests.chart.storage import too_small


def broken_rules(documents: Sequence[Document]) -> Iterator[str]:
    """What documents that are valid break nevertheless."""
    for pod in pods(documents):
        yield from unsafe(pod)
        yield from plain_secrets_of(pod)
        yield from misused(pod)
        yield from too_small(pod)
    for document in documents:
        yield from plain_secrets(document)
    yield from unusable(documents)
    yield from dangling(documents)
    yield from unready_hooks(documents)
    yield from open_ways(documents)
