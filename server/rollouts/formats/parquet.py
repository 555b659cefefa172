"""The same rows as `headway`, typed and compressed, for pandas and datasets: lists of int32 and float32. Of pictures a
row has the bytes beside the names.

Without its footer, which is written last, a Parquet file cannot be read: one that was cut off never passes for whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from server.rollouts.formats.headway import headway_row
from server.rollouts.formats.pictures import bytes_of, names_of
from store.blob_stores import BlobStore
from store.rollouts import Resolved
from wire.errors import InvalidRequest

_GROUP_BYTES = 16 << 20


class ParquetRows:
    """Raises InvalidRequest where this server has no pyarrow. blobs: where pictures are; None: without their bytes."""

    def __init__(self, blobs: BlobStore | None) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError:
            raise InvalidRequest(
                "this server cannot write Parquet, for it lacks pyarrow: install headway[export] there, or take JSONL "
                "(format=headway), which pandas and datasets read too"
            ) from None
        self._blobs = blobs
        self._arrow: Any = pa
        self._schema = _schema(pa)
        self._file = _Outbox()
        self._writer: Any = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._waiting = list[Any]()

    def write(self, rollouts: Sequence[Resolved]) -> Iterator[bytes]:
        """Bytes of the file, a row group at a time. Raises Gone where a picture's bytes are not there."""
        for several in _together(rollouts):
            rows = [self._row(resolved) for resolved in several]
            self._waiting.append(self._arrow.RecordBatch.from_pylist(rows, schema=self._schema))
            if sum(batch.nbytes for batch in self._waiting) >= _GROUP_BYTES:
                self._write_group()
                yield self._file.take()

    def _row(self, resolved: Resolved) -> dict[str, Any]:
        pictures = [
            {"name": name, "bytes": bytes_of(self._blobs, name) if self._blobs else None}
            for name in names_of([resolved])
        ]
        return {**headway_row(resolved), "pictures": pictures}

    def close(self) -> bytes:
        """The last row group, and the footer."""
        self._write_group()
        self._writer.close()
        return self._file.take()

    def _write_group(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting, schema=self._schema))
            self._waiting.clear()


def _together(rollouts: Sequence[Resolved]) -> Iterator[Sequence[Resolved]]:
    """One by one where some have pictures, as these may have many bytes."""
    if names_of(rollouts):
        yield from ([one] for one in rollouts)
    else:
        yield rollouts


class _Outbox(io.RawIOBase):
    """A file that is only appended to, and forgets what was taken from it."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._waiting += data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


def _schema(pa: Any) -> Any:
    text, texts, time = pa.string(), pa.list_(pa.string()), pa.string()
    function = pa.struct({"name": text, "arguments": text})
    message = pa.struct(
        {
            "role": text,
            "content": text,
            "reasoning_content": text,
            "tool_calls": pa.list_(pa.struct({"id": text, "type": text, "function": function})),
            "tool_call_id": text,
            "name": text,
        }
    )
    number = pa.int32()
    media = pa.struct({"start": number, "num_tokens": number, "name": text, "width": number, "height": number})
    turn = pa.struct(
        {
            "prompt_token_ids": pa.list_(pa.int32()),
            "prompt_media": pa.list_(media),
            "output_token_ids": pa.list_(pa.int32()),
            "output_logprobs": pa.list_(pa.float32()),
            "checkpoint_id": text,
            "model_id": text,
            "served_at": time,
            "completion_id": text,
            "sampling": text,
            "finish_reason": text,
            "seconds": pa.float64(),
            "request": text,
        }
    )
    return pa.schema(
        {
            "format": text,
            "trace_id": text,
            "prompt": pa.list_(message),
            "completion": pa.list_(message),
            "reward": pa.float64(),
            "status": text,
            "timed_out": pa.bool_(),
            "error": text,
            "stop_reason": text,
            "evaluation_result": text,
            "extra": text,
            "job_id": text,
            "group_id": text,
            "parent_trace_id": text,
            "task_slug": text,
            "model": text,
            "created_at": time,
            "entered_at": time,
            "exited_at": time,
            "flags": texts,
            "labels": texts,
            "comments": pa.list_(pa.struct({"author": text, "text": text, "created_at": time})),
            "turns": pa.list_(turn),
            "pictures": pa.list_(pa.struct({"name": text, "bytes": pa.binary()})),
        }
    )
