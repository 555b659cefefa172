"""Checkpoints as objects: put the files, then the manifest, which is the commit. An object that was put lasts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from uuid import UUID

import structlog

from store.checkpoint_stores.base import (
    ADAPTER,
    STATE,
    CheckpointFiles,
    FileProblem,
    Manifest,
    StoredCheckpoint,
    part_path,
)
from store.checkpoint_stores.cache import CheckpointCache
from store.checkpoint_stores.manifests import (
    MANIFEST,
    differences,
    files_under,
    measure,
    no_manifest,
    parse_manifest,
    verify_file,
    write_manifest,
)
from store.object_store.bucket import Bucket, DamagedObject, NoSuchObject, StoredObject, connect
from store.object_store.location import Location
from wire.errors import CorruptCheckpoint, Unavailable
from wire.process.faults import fault_point

log = structlog.get_logger(__name__)

_PARTS_OF = "#"


@dataclass(slots=True)
class _Found:
    """The objects of one checkpoint, with their ages. Without a manifest it is none: an upload under way, or a
    leftover."""

    keys: list[str] = field(default_factory=list[str])
    changed_s: float = inf
    committed_s: float | None = None

    def add(self, inner: str, age_s: float) -> None:
        self.keys.append(inner)
        self.changed_s = min(self.changed_s, age_s)
        if inner == MANIFEST:
            self.committed_s = age_s


class S3CheckpointStore:
    """`<prefix>/<model>/<checkpoint>/{adapter,state}/…` and `manifest.json`, and verified copies of some on a local
    disk, shared by the processes of a machine. A copy is used as long as it is as its manifest says, whether or not
    the bucket can be reached: what a name stands for never changes."""

    def __init__(self, bucket: Bucket, cache: CheckpointCache) -> None:
        self._bucket = bucket
        self._cache = cache

    @classmethod
    def from_url(cls, url: str) -> S3CheckpointStore:
        """From a `Location`. Raises ValueError."""
        location = Location.parse(url, copies="headway-checkpoints")
        bucket = Bucket(location.bucket, location.prefix, connect())
        return cls(bucket, CheckpointCache(location.cache, location.cache_bytes))

    @contextmanager
    def stage(self, model: UUID, checkpoint: UUID) -> Generator[Path]:
        with self._cache.staging(checkpoint.hex) as staged:
            for part in (ADAPTER, STATE):
                (staged / part).mkdir()
            yield staged

    def publish(self, model: UUID, checkpoint: UUID, staged: Path) -> Manifest:
        folder = _folder(model, checkpoint)
        if self._bucket.exists(folder + MANIFEST):
            raise FileExistsError(f"checkpoint {checkpoint.hex} was published already")
        files = {path.relative_to(staged).as_posix(): path for path in files_under(staged)}
        with self._bucket.uploading({folder + inner: path for inner, path in files.items()}):
            manifest = Manifest({inner: measure(path) for inner, path in files.items()})
        fault_point("publish:before-manifest")
        self._bucket.put(folder + MANIFEST, write_manifest(manifest).encode())
        self._keep_copies(model, checkpoint, staged, manifest)
        return manifest

    def settle(self, model: UUID, checkpoint: UUID) -> None:
        """Nothing to do: what a bucket has acknowledged lasts."""

    def fetch(self, model: UUID, checkpoint: UUID, *, state: bool = True) -> CheckpointFiles:
        adapter, manifest = self._part(model, checkpoint, ADAPTER)
        has_state = any(path.startswith(f"{STATE}/") for path in manifest.files)
        return CheckpointFiles(adapter, self._part(model, checkpoint, STATE)[0] if state and has_state else None)

    def release(self, model: UUID, checkpoint: UUID) -> None:
        for part in (ADAPTER, STATE):
            self._cache.release(_copy_name(model, checkpoint, part))

    def describe(self, model: UUID, checkpoint: UUID, part: str) -> str:
        return part_path(model, checkpoint, part)

    def stored(self) -> Iterator[StoredCheckpoint]:
        for (model, checkpoint), found in self._found().items():
            if found.committed_s is not None:
                has_state = any(key.startswith(f"{STATE}/") for key in found.keys)
                yield StoredCheckpoint(model, checkpoint, has_state, found.committed_s)

    def check(
        self, model: UUID, checkpoint: UUID, manifest: Manifest, parts: Collection[str], *, read: bool = True
    ) -> list[FileProblem]:
        """Of the bucket, not of copies."""
        folder = _folder(model, checkpoint)
        found = {row.key.removeprefix(folder): row.size for row in self._bucket.list(folder)}
        found.pop(MANIFEST, None)

        def is_as(path: str, expected: tuple[int, str]) -> bool:
            try:
                return not read or self._bucket.digest(folder + path) == expected[1]
            except (NoSuchObject, DamagedObject):
                return False

        return differences(manifest, parts, found, lambda: self._read_manifest(model, checkpoint), is_as)

    def remove(self, model: UUID, checkpoint: UUID, part: str | None = None) -> int:
        folder = _folder(model, checkpoint)
        for copied in (part,) if part else (ADAPTER, STATE):
            self._cache.discard(_copy_name(model, checkpoint, copied))
        found = list(self._bucket.list(f"{folder}{part}/" if part else folder))
        if part is None:
            self._bucket.delete([folder + MANIFEST])  # from now on it is a leftover
        return self._delete(found)

    def left_over(self) -> Iterator[tuple[str, float]]:
        """Uploads that nobody finished. (What a dead process left in the local cache, the next one there removes.)"""
        for (model, checkpoint), found in self._found().items():
            if found.committed_s is None:
                yield _folder(model, checkpoint), found.changed_s
        try:
            for upload in self._bucket.unfinished_uploads():
                yield f"{upload.key}{_PARTS_OF}{upload.upload_id}", upload.age_s
        except Unavailable as refused:  # some keys may not list them: no reason to collect nothing at all
            log.warning("unfinished_uploads_not_listed", reason=refused.message)

    def remove_left_over(self, name: str) -> int:
        key, is_parts, upload_id = name.partition(_PARTS_OF)
        if not is_parts:
            return self._delete(self._bucket.list(name))
        try:
            self._bucket.abort_upload(key, upload_id)
        except NoSuchObject:
            log.info("upload_gone_already", key=key)
        return 0

    def _part(self, model: UUID, checkpoint: UUID, part: str) -> tuple[Path, Manifest]:
        """A verified part, held."""
        name = _copy_name(model, checkpoint, part)
        copy = self._whole_copy(name, checkpoint, part)
        if copy is None:
            with self._cache.turn(name):
                copy = self._whole_copy(name, checkpoint, part) or self._download(name, model, checkpoint, part)
        return copy[0] / part, copy[1]

    def _whole_copy(self, name: str, checkpoint: UUID, part: str) -> tuple[Path, Manifest] | None:
        folder = self._cache.hold(name)
        if folder is None:
            return None
        try:
            manifest = parse_manifest(_read_copied_manifest(folder, checkpoint), checkpoint.hex)
            _verify_part(folder, manifest, checkpoint, part)
        except CorruptCheckpoint as harm:
            log.warning("copy_harmed", copy=name, reason=harm.message)
            if not self._cache.discard(name):
                raise CorruptCheckpoint(f"{harm.message} (the copy in {folder}, which is in use)") from None
            return None
        return folder, manifest

    def _download(self, name: str, model: UUID, checkpoint: UUID, part: str) -> tuple[Path, Manifest]:
        folder, manifest = _folder(model, checkpoint), self._read_manifest(model, checkpoint)
        with self._cache.staging(name) as staged:
            (staged / part).mkdir()
            paths = [path for path in manifest.files if path.startswith(f"{part}/")]
            for path in paths:
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._bucket.download({folder + path: staged / path for path in paths})
            except NoSuchObject:
                raise CorruptCheckpoint(f"files of the {part} of checkpoint {checkpoint.hex} are missing") from None
            except DamagedObject:
                raise CorruptCheckpoint(f"the {part} of checkpoint {checkpoint.hex} was altered") from None
            _verify_part(staged, manifest, checkpoint, part)
            (staged / MANIFEST).write_text(write_manifest(manifest))
            return self._cache.keep(staged, name, hold=True), manifest

    def _keep_copies(self, model: UUID, checkpoint: UUID, staged: Path, manifest: Manifest) -> None:
        """What was just written is what samplers and rollbacks on this machine read next."""
        try:
            for part in (ADAPTER, STATE):
                name = _copy_name(model, checkpoint, part)
                with self._cache.staging(name) as copy:
                    (staged / part).rename(copy / part)
                    (copy / MANIFEST).write_text(write_manifest(manifest))
                    self._cache.keep(copy, name, hold=False)
        except OSError as error:  # it is in the bucket, and can be fetched
            log.warning("copy_not_kept", checkpoint=checkpoint.hex, reason=str(error))

    def _read_manifest(self, model: UUID, checkpoint: UUID) -> Manifest:
        try:
            return parse_manifest(self._bucket.get(_folder(model, checkpoint) + MANIFEST), checkpoint.hex)
        except NoSuchObject:
            raise no_manifest(checkpoint.hex) from None
        except DamagedObject as damaged:
            raise CorruptCheckpoint(f"the manifest of checkpoint {checkpoint.hex} was altered: {damaged}") from None

    def _found(self) -> dict[tuple[UUID, UUID], _Found]:
        found: dict[tuple[UUID, UUID], _Found] = defaultdict(_Found)
        for row in self._bucket.list():
            model, _, rest = row.key.partition("/")
            checkpoint, _, inner = rest.partition("/")
            try:
                found[UUID(hex=model), UUID(hex=checkpoint)].add(inner, row.age_s)
            except ValueError:
                continue  # not ours
        return found

    def _delete(self, found: Iterable[StoredObject]) -> int:
        rows = list(found)
        self._bucket.delete([row.key for row in rows])
        return sum(row.size for row in rows)


def _folder(model: UUID, checkpoint: UUID) -> str:
    return f"{model.hex}/{checkpoint.hex}/"


def _copy_name(model: UUID, checkpoint: UUID, part: str) -> str:
    return f"{model.hex}.{checkpoint.hex}.{part}"


def _read_copied_manifest(folder: Path, checkpoint: UUID) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise no_manifest(checkpoint.hex) from None


def _verify_part(folder: Path, manifest: Manifest, checkpoint: UUID, part: str) -> None:
    for path, expected in manifest.files.items():
        if path.startswith(f"{part}/"):
            verify_file(folder / path, expected, checkpoint.hex)
