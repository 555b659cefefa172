"""A blob store belongs to one service: its collections delete what its database does not know.

The store keeps the id of the service that collected or copied there first, and no other does. (Checkpoints need no such
mark: folders of models that a database does not know are left alone.)
"""

from __future__ import annotations

import structlog

from store.blob_stores import BlobStore
from store.blob_stores.base import OWNER
from store.database import Connection
from wire.errors import Conflict

log = structlog.get_logger(__name__)

_ID = """
    with made as (insert into service default values on conflict do nothing returning id)
    select id from made union all select id from service
"""


def service_id(connection: Connection) -> str:
    """Of this database, the same from now on."""
    row = connection.execute(_ID).fetchone()
    assert row is not None, "there is one, or it was made"
    return row.id.hex


def belongs_to_another(blobs: BlobStore, service: str) -> bool:
    """Whether the store keeps another service's blobs. One in which there is nothing is free."""
    return blobs.owner() not in (None, service) and next(blobs.stored(), None) is not None


def claim(blobs: BlobStore, service: str) -> None:
    """The store is this service's from now on, unless its disk takes nothing: a collection makes room there. Raises
    Conflict where it is another's."""
    if blobs.owner() == service:
        return
    if belongs_to_another(blobs, service):
        raise another_services_store()
    try:
        blobs.claim(service)
    except OSError as full:
        log.warning("blob_store_not_claimed", reason=str(full))


def another_services_store() -> Conflict:
    """What to raise, or say, where it is another's."""
    return Conflict(
        "the blob store belongs to another service, whose blobs a collection would remove: give each service a prefix "
        f"or folder of its own (HEADWAY_BLOB_STORE); where that service is no more, remove `{OWNER}` from the store"
    )
