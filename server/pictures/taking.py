"""Takes pictures out of requests: each is decoded once, kept as a canonical PNG, and named from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from server.pictures.collaborators import Pictures
from server.pictures.data_urls import bytes_of
from server.pictures.decoder import Decoded
from server.pictures.fetching import fetch
from server.principals.quotas import refuse_more_files
from server.uploads.storing import stored_or_refused
from store.blob_stores.threads import in_blob_thread
from wire.errors import FINAL, HeadwayError, InvalidRequest, NotFound, TooLarge
from wire.pictures import Picture, PictureLimits, name_in
from wire.process.off_loop import off_loop

LOW_DETAIL = 512
"""Pixels of the longer side of a picture that is sent with `detail: low`."""

_DATA, _FETCHED = "data:", ("http://", "https://")


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture of a request. where: its place there, which refusals name. source: its bytes as they were sent, a
    `data:` or http(s) URL, or `sha256:<name>` of one that the team sent before. longest_side: pixels to which it is
    scaled down."""

    where: str
    source: bytes | str
    longest_side: int | None = None


async def take_each(
    pictures: Pictures, team_id: UUID, sent: Sequence[SentPicture], limits: PictureLimits | None = None
) -> list[Picture]:
    """Pictures of a request, in order: stored, with rows of the team. limits: of all of them together; None: the
    server's.

    Raises InvalidRequest for what is no picture, and for URLs that are not fetched; TooLarge for too many, too large or
    too many bytes; NotFound for the name of one that the team has not. All of them name the picture's place. Raises
    QuotaFull for a team whose storage is full, unless it has all of them.
    """
    limits = limits or pictures.settings.limits
    if len(sent) > limits.per_request:
        raise TooLarge(f"the request has {len(sent)} pictures; at most {limits.per_request} are taken at once")
    if not sent:
        return []
    counted = _CountedBytes(pictures)
    found = [await _looked_up(pictures, counted, one) for one in sent]
    names = {one.picture.name if one.picture else one.name for one in found} - {None}
    known = dict(await pictures.rows.known(team_id, [name for name in names if name]))
    for name in await _lost(pictures, {one.picture.name for one in found if one.picture} & {*known}):
        del known[name]
    if any(one.key is not None and (one.picture is None or one.picture.name not in known) for one in found):
        async with pictures.database.session() as session:
            await refuse_more_files(session, team_id)
    added = list[tuple[Picture, int]]()
    taken = [await _taken(pictures, one, known, added) for one in found]
    if added:
        await pictures.rows.add(team_id, added)
    return taken


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of a picture before it is decoded. name: of a pointer. key: of `Pictures.decoded`. picture: what
    it was when the same bytes came before. data: where they cannot be had from the request again."""

    sent: SentPicture
    name: str | None = None
    key: tuple[bytes, int | None] | None = None
    picture: Picture | None = None
    data: bytes | None = None


class _CountedBytes:
    """Those of all pictures of a request."""

    def __init__(self, pictures: Pictures) -> None:
        self._most = pictures.settings.limits.bytes_in_all
        self._num_bytes = 0

    def add(self, where: str, num_bytes: int) -> None:
        """Raises TooLarge."""
        self._num_bytes += num_bytes
        if self._num_bytes > self._most:
            raise TooLarge(f"{where}: the pictures of the request have more than {self._most:,} bytes", param=where)


async def _looked_up(pictures: Pictures, counted: _CountedBytes, sent: SentPicture) -> _Found:
    fetched = None
    if isinstance(sent.source, str) and not sent.source.startswith(_DATA):
        if (name := name_in(sent.source)) is not None:
            return _Found(sent, name=name)
        fetched = await _fetched(pictures, sent.where, sent.source)
    num_bytes, digest = await off_loop(len(sent.source), _measured, pictures, sent, fetched)
    counted.add(sent.where, num_bytes)
    key = digest, sent.longest_side
    return _Found(sent, key=key, picture=pictures.decoded.get(key), data=fetched)


async def _fetched(pictures: Pictures, where: str, url: str) -> bytes:
    if not url.lower().startswith(_FETCHED):
        raise InvalidRequest(f"{where}: the URL of a picture must be a data URL: data:image/…;base64,…", param=where)
    return await fetch(pictures.settings, where, url)


def _measured(pictures: Pictures, sent: SentPicture, fetched: bytes | None) -> tuple[int, bytes]:
    data = _bytes(pictures, sent, fetched)
    return len(data), hashlib.sha256(data).digest()


def _bytes(pictures: Pictures, sent: SentPicture, fetched: bytes | None) -> bytes:
    """As they were sent. Those of a data URL are made anew each time, rather than kept for all of a request."""
    max_bytes = pictures.settings.limits.bytes_each
    if fetched is not None:
        return fetched
    if isinstance(sent.source, str):
        return bytes_of(sent.where, sent.source, max_bytes)
    if len(sent.source) > max_bytes:
        raise TooLarge(f"{sent.where} is larger than {max_bytes:,} bytes, the most of a picture", param=sent.where)
    return sent.source


async def _lost(pictures: Pictures, names: Collection[str]) -> list[str]:
    """Those whose blobs are not there any more: whoever sends their bytes gives them back."""
    if not names:
        return []
    return await in_blob_thread(pictures.blobs, lambda: [name for name in names if not pictures.blobs.has(name)])


async def _taken(
    pictures: Pictures, found: _Found, known: dict[str, Picture], added: list[tuple[Picture, int]]
) -> Picture:
    if found.key is None:
        if found.name not in known:
            raise no_such_picture(found.sent.where, found.name or "")
        return known[found.name]
    picture = found.picture or pictures.decoded.get(found.key)  # by now the same one may stand further ahead
    if picture is not None and picture.name in known:
        pictures.metrics.picture("repeated")
        return picture
    data = await off_loop(len(found.sent.source), _bytes, pictures, found.sent, found.data)
    decoded = await _decoded(pictures, found.sent, data)
    with stored_or_refused("picture"):
        name = await in_blob_thread(pictures.blobs, pictures.blobs.put, decoded.png)
    picture = known[name] = Picture(name, decoded.width, decoded.height)
    added.append((picture, len(decoded.png)))
    pictures.decoded.keep(found.key, picture)
    pictures.metrics.picture("decoded")
    return picture


async def _decoded(pictures: Pictures, sent: SentPicture, data: bytes) -> Decoded:
    try:
        with pictures.metrics.decoding():
            return await pictures.decoder.decode(data, longest_side=sent.longest_side)
    except (InvalidRequest, TooLarge) as refusal:
        pictures.metrics.picture("refused")
        raise _at(sent.where, refusal) from None


def _at(where: str, refusal: HeadwayError) -> HeadwayError:
    """What the decoder says of the picture, as a sentence."""
    return type(refusal)(f"{where}: the picture {refusal.message}", param=where)


class PictureNotFound(NotFound):
    """A request names a picture that the team has not, or not any more; another team's reads the same."""

    code, tries = "picture_not_found", FINAL


def no_such_picture(where: str, name: str) -> PictureNotFound:
    """`where`: the place in the request."""
    return PictureNotFound(
        f"{where}: no picture sha256:{name}: it was not sent by this team, or whatever named it was deleted; send its "
        "bytes",
        param=where,
    )
