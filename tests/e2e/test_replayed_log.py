"""The op log of a run that one process made, computed again by ranks: every adapter and optimizer state, to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select

from store.blob_stores.file import FileBlobStore
from store.checkpoint_stores import open_checkpoint_store
from store.database import Database
from store.oplog.operation import ModelState
from store.oplog.unsaved import Node, chain_to
from store.tables import CheckpointRow, ModelRow
from tests.distributed.processes import RankProcesses
from tests.e2e.trainer_site import SMALL_PASSES, STEP, Site
from trainer.distributed.engine import DistributedEngine, follow
from trainer.distributed.group import RankGroup
from trainer.distributed.loading import load_sharded_base
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.unembedding import BLOCK_ROWS
from trainer.worker.instruments import TrainerMetrics
from trainer.worker.loading import Loading
from trainer.worker.passes import Passes
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.engine import LoraConfig
from wire.trajectories import Batch, Trajectory, Turn

pytestmark = pytest.mark.slow

GROUP_SIZE = 4
PASSES = [
    [("ppo", {}, 6)],
    [("importance_sampling", {"kl_penalty_coef": 0.1}, 2), ("cispo", {}, 4)],
    [("cross_entropy", {}, 1), ("ppo", {"kl_penalty_coef": 0.1}, 10), ("importance_sampling", {}, 1)],
    [("ppo", {}, 20)],
]
"""Before each step: loss, its settings, groups."""


@dataclass(frozen=True, slots=True)
class Log:
    """Where the log of a run is, and of which model and steps."""

    url: str
    folder: Path
    base: Path
    model: ModelState
    nodes: Sequence[UUID]


def payload(loss: str, config: dict[str, float], num_groups: int) -> bytes:
    """Turns of several lengths and rewards; a group shares its prompt."""
    random = np.random.default_rng(num_groups)
    prompts = random.integers(3, 15, (num_groups, 24)).astype(np.int32)

    def trajectory(number: int) -> Trajectory:
        output = random.integers(3, 15, int(random.integers(4, 60))).astype(np.int32)
        turn = Turn(prompts[number // GROUP_SIZE], output, np.full(len(output), -2.0, np.float32))
        return Trajectory((turn,), float(number % GROUP_SIZE))

    batch = Batch([trajectory(number) for number in range(num_groups * GROUP_SIZE)], group_size=GROUP_SIZE)
    call = {"loss_fn": loss, "loss_fn_config": config, "num_substeps": 1}
    return encode_datums(to_datums(batch, config), call)


@pytest.fixture
def log(database: Database, postgres_url: str, tiny_base: Path, tmp_path: Path) -> Iterator[Log]:
    """Of a run by a trainer of one process."""
    site = Site(database, postgres_url, tiny_base, tmp_path)
    model_id = site.models[0]
    site.start(*SMALL_PASSES, "--min-shard-tokens", "64", "--threads", "1")
    for passes in PASSES:
        for loss, config, size in passes:
            site.ask(model_id, "forward_backward", payload(loss, config, size))
        step = site.ask(model_id, "optim_step", STEP)
        site.until(lambda step=step: site.is_done(step))
    with database.session() as session:
        row = session.get_one(ModelRow, model_id)
        query = select(CheckpointRow.id).where(CheckpointRow.model_id == model_id).order_by(CheckpointRow.step)
        nodes = list(session.scalars(query))
        head = row.head_checkpoint_id, row.head_version, len(PASSES), False
        yield Log(
            postgres_url, tmp_path, tiny_base, ModelState(model_id, row.slug, row.base_id, row.lora, *head), nodes
        )
    site.close()


def computed_again(group: RankGroup, log: Log, folder: Path) -> dict[int, dict[str, str]]:
    """SHA-256 of the files of each step."""
    base = load_sharded_base(str(log.base), ranks=group)
    settings = EngineSettings(max_tokens_per_pass=10_000, threads=1)  # the recorded plans decide
    engine = TrainingEngine(base, settings, ranks=group)
    if group.rank:
        follow(engine, group)
        return {}
    leading, database, blobs = DistributedEngine(engine, group), Database(log.url), FileBlobStore(log.folder / "blobs")
    passes = Passes(database, blobs, leading, TrainerMetrics())
    loading = Loading(database, blobs, open_checkpoint_store(f"file://{log.folder}/none"), leading, passes)
    leading.open(log.model.id, LoraConfig(**log.model.lora), None, None)
    found = {}
    for node in _nodes(database, log.nodes):
        loading._compute_again(log.model, node)
        adapter, state = (folder / node.name / part for part in ("adapter", "state"))
        for part in (adapter, state):
            part.mkdir(parents=True)
        leading.snapshot(log.model.id).write(adapter, state)
        found[node.step] = _digests(folder / node.name)
    leading.end()
    database.close()
    return found


def _nodes(database: Database, ids: Sequence[UUID]) -> list[Node]:
    with database.connection() as connection:
        return [chain_to(connection, node_id)[-1] for node_id in ids]


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_ranks_that_compute_a_log_again_end_in_its_files(log: Log, database: Database, tmp_path: Path):
    with database.session() as session:
        rows = [session.get_one(CheckpointRow, node_id) for node_id in log.nodes]
        recorded = {row.step: {path: file["sha256"] for path, file in row.manifest["files"].items()} for row in rows}
    weights = {files["adapter/adapter_model.safetensors"] for files in recorded.values()}
    assert len(weights) == len(recorded) == len(PASSES), "each step moves the weights"
    for size in (2, 3):
        ranks = RankProcesses(size, block_rows=BLOCK_ROWS)  # those of the trainer that recorded it
        try:
            replayed, *_ = ranks.run(computed_again, log, tmp_path / f"by {size}")
        finally:
            ranks.close()
        assert replayed == recorded
