"""OpenAI's file objects."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from server.files.types import StoredFile
from server.protocols.openai.shared.platform_routes import shown_id

FILE = "file-"


class FileObject(BaseModel):
    """A file. It was checked line by line before it was taken, so it is `processed` at once."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class FileList(BaseModel):
    """Some files; `has_more`: others follow after `last_id`."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


class FileDeleted(BaseModel):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def file_object(stored: StoredFile) -> FileObject:
    """A file as OpenAI's clients read it."""
    return FileObject(
        id=shown_id(FILE, stored.id),
        bytes=stored.num_bytes,
        created_at=int(stored.created_at.timestamp()),
        filename=stored.filename,
        purpose=stored.purpose,
    )
