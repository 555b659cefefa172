"""How operations and their results are written down: a JSON header and raw arrays, versioned, never pickled.

Layout: magic `HWP1`, uint32 header length, header (UTF-8 JSON), then the arrays back to back. The header's
`arrays` lists name, dtype, and length of each. All little-endian, all one-dimensional.

A batch repeats each turn's history in the next turn's prompt. It is stored as the length of the prefix shared
with the previous turn's prompt + output, and the rest.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wire.trajectories import Batch, Trajectory, Turn

_MAGIC = b"HWP1"
_DTYPES = {"int32": "<i4", "float32": "<f4", "float64": "<f8"}

Arrays = Mapping[str, npt.NDArray[Any]]


def encode(header: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """Bytes of a JSON-able header and its one-dimensional arrays (int32, float32 or float64)."""
    arrays = arrays or {}
    table = [{"name": k, "dtype": str(a.dtype), "length": len(a)} for k, a in arrays.items()]
    head = json.dumps({"header": header, "arrays": table}, separators=(",", ":")).encode()
    body = b"".join(np.ascontiguousarray(a, _DTYPES[str(a.dtype)]).tobytes() for a in arrays.values())
    return _MAGIC + struct.pack("<I", len(head)) + head + zlib.compress(body, 1)


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The header and arrays that `encode` wrote. Raises ValueError on anything else."""
    if data[:4] != _MAGIC:
        raise ValueError("not a Headway payload, or of an unknown version")
    (size,) = struct.unpack_from("<I", data, 4)
    head = json.loads(data[8 : 8 + size])
    body, offset, arrays = zlib.decompress(data[8 + size :]), 0, {}
    for row in head["arrays"]:
        arrays[row["name"]] = np.frombuffer(body, _DTYPES[row["dtype"]], row["length"], offset)
        offset += arrays[row["name"]].nbytes
    return head["header"], arrays


def encode_batch(batch: Batch, extra: Mapping[str, Any]) -> bytes:
    """A batch and the JSON-able arguments that go with it."""
    turns = [turn for trajectory in batch.trajectories for turn in trajectory.turns]
    shared = [n for t in batch.trajectories for n in _shared_prefixes(t)]
    tails = [turn.prompt_ids[n:] for turn, n in zip(turns, shared, strict=True)]
    header = {
        "turns": [len(t.turns) for t in batch.trajectories],
        "trace_ids": [t.trace_id for t in batch.trajectories],
        "group_size": batch.group_size,
        "reward_scale": batch.reward_scale,
        **extra,
    }
    arrays = {
        "rewards": np.array([t.reward for t in batch.trajectories], np.float64),
        "prompt_shared": np.array(shared, np.int32),
        "prompt_tail_lengths": np.array([len(t) for t in tails], np.int32),
        "prompt_tails": _concat(tails, np.int32),
        "output_lengths": np.array([len(t.output_ids) for t in turns], np.int32),
        "outputs": _concat([t.output_ids for t in turns], np.int32),
        "logprob_lengths": np.array([len(t.sampling_logprobs) for t in turns], np.int32),
        "logprobs": _concat([t.sampling_logprobs for t in turns], np.float32),
    }
    return encode(header, arrays)


def decode_batch(data: bytes) -> tuple[Batch, dict[str, Any]]:
    """The batch and arguments that `encode_batch` wrote."""
    header, arrays = decode(data)
    tails = _split(arrays["prompt_tails"], arrays["prompt_tail_lengths"])
    outputs = _split(arrays["outputs"], arrays["output_lengths"])
    logprobs = _split(arrays["logprobs"], arrays["logprob_lengths"])
    trajectories, at = [], 0
    for count, reward, trace_id in zip(header["turns"], arrays["rewards"], header["trace_ids"], strict=True):
        history, turns = np.zeros(0, np.int32), []
        for i in range(at, at + count):
            prompt = np.concatenate([history[: arrays["prompt_shared"][i]], tails[i]])
            turns.append(Turn(prompt, outputs[i], logprobs[i]))
            history = np.concatenate([prompt, outputs[i]])
        trajectories.append(Trajectory(tuple(turns), float(reward), trace_id))
        at += count
    batch = Batch(trajectories, header.pop("group_size"), header.pop("reward_scale"))
    del header["turns"], header["trace_ids"]
    return batch, header


def _shared_prefixes(trajectory: Trajectory) -> list[int]:
    lengths, history = [], np.zeros(0, np.int32)
    for turn in trajectory.turns:
        lengths.append(common_prefix(history, turn.prompt_ids))
        history = np.concatenate([turn.prompt_ids, turn.output_ids])
    return lengths


def common_prefix(a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> int:
    """How many leading ids two sequences share."""
    n = min(len(a), len(b))
    differing = np.flatnonzero(a[:n] != b[:n])
    return int(differing[0]) if len(differing) else n


def _concat(parts: list[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def _split(flat: npt.NDArray[Any], lengths: npt.NDArray[np.int32]) -> list[npt.NDArray[Any]]:
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
