"""How long an 8-token forward_backward and its optim_step take, both calls together, and whose time it is.

Run by `make bench` under `headway up`, so that every process is the real one: HTTP, op log, trainer, checkpoint files
with fsync, sampler, promotion, and back. "torch" is what the engine reports for its pass and its update; "ours" is
the rest. Prints a table, then one JSON line.

`--data-dir`, of that `headway up`, adds where our time goes, from the op log's own timestamps: "before" the operation
is written down, "queued", "worked" (torch's time taken out: the op log, checkpoint files, promotion), "after" the
trainer is done; and how many transactions a step takes, heartbeats and reconciliations of that time included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from bench.figures import write_figures
from bench.small_step import Row, connect, fork, promoted_step

STAGES = ("before", "queued", "worked", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--lora-rank", type=int, help="of the model's adapter; default: the server's")
    parser.add_argument("--data-dir", type=Path, help="of the `headway up` around us: shows the stages too")
    options = parser.parse_args()
    client = connect()
    model_id = fork(client, options.lora_rank)
    for _ in range(options.warm_up):
        promoted_step(client, model_id)
    log = OpLog(options.data_dir, model_id) if options.data_dir else None
    measured = [promoted_step(client, model_id) for _ in range(options.steps)]
    transactions = log.transactions_per_step(options.steps) if log else None
    _add_torch(measured, client, model_id)
    if log:
        log.add_stages(measured)
    _report(measured, transactions, client.get(f"/v2/models/{model_id}").json()["lora"]["rank"])


def _add_torch(measured: list[Row], client: httpx.Client, model_id: str) -> None:
    """The update's share, which the checkpoints tell; asked for at the end, so that it disturbs no measurement."""
    checkpoints = client.get(f"/v2/models/{model_id}/checkpoints").json()[-len(measured) :]
    for row, checkpoint in zip(measured, checkpoints, strict=True):
        row["torch_ms"] += checkpoint["metrics"]["seconds"] * 1e3
        row["ours_ms"] = row["total_ms"] - row["torch_ms"]


class OpLog:
    """The op log of an embedded database on this machine, whose clock is ours."""

    def __init__(self, data_dir: Path, model_id: str) -> None:
        import psycopg

        from store.embedded import EmbeddedPostgres

        self._model_id = model_id
        self._connection = psycopg.connect(EmbeddedPostgres(data_dir.resolve() / "postgres").url, autocommit=True)
        self._transactions = self._count()

    def transactions_per_step(self, steps: int) -> float:
        """Committed transactions a step since this object was made."""
        return round((self._count() - self._transactions) / steps, 1)

    def add_stages(self, measured: list[Row]) -> None:
        """Where our time went, of both calls together."""
        query = """
            select extract(epoch from created_at)::float, extract(epoch from started_at)::float,
                extract(epoch from finished_at)::float
            from operations where model_id = %s order by sequence desc limit %s
        """
        found = self._connection.execute(query, (self._model_id, 2 * len(measured))).fetchall()[::-1]
        for row, passed, stepped in zip(measured, found[::2], found[1::2], strict=True):
            calls = ((row["_sent_at"], *passed, row["_between_at"]), (row["_between_at"], *stepped, row["_ended_at"]))
            for index, stage in enumerate(STAGES):
                row[f"{stage}_ms"] = sum(call[index + 1] - call[index] for call in calls) * 1e3
            row["worked_ms"] -= row["torch_ms"]

    def _count(self) -> int:
        time.sleep(1.5)  # sessions report to the statistics once a second
        query = "select xact_commit from pg_stat_database where datname = current_database()"
        row: Any = self._connection.execute(query).fetchone()
        return row[0]


def _report(measured: list[Row], transactions: float | None, lora_rank: int) -> None:
    names = [name for name in measured[0] if not name.startswith("_")]
    figures: dict[str, Any] = {name: _summary([row[name] for row in measured]) for name in names}
    print(f"8-token forward_backward + optim_step, {len(measured)} steps, LoRA of rank {lora_rank}")
    print(f"{'':22}{'median':>10}{'p90':>10}")
    for name, row in figures.items():
        print(f"{name:22}{row['median']:>10}{row['p90']:>10}")
    if transactions is not None:
        figures["transactions"] = transactions
        print(f"{'transactions a step':22}{transactions:>10}")
    write_figures("step_latency", {"steps": len(measured), "lora_rank": lora_rank, **figures})


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "p90": round(statistics.quantiles(values, n=10)[-1], 2),
    }


if __name__ == "__main__":
    main()
