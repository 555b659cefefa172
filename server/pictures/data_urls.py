"""The bytes in a `data:` URL."""

from __future__ import annotations

import base64
import binascii

from wire.errors import InvalidRequest, TooLarge


def bytes_of(where: str, url: str, max_bytes: int) -> bytes:
    """Raises InvalidRequest for one that is not base64, and TooLarge. The media type it declares is not believed:
    bytes are read as what they are. Refusals begin with `where`."""
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidRequest(f"{where}: a data URL must be data:image/…;base64,…", param=where)
    return decoded(where, content, max_bytes)


def decoded(where: str, content: str, max_bytes: int) -> bytes:
    """Base64 as bytes; line ends in it are passed over. Raises as `bytes_of` does."""
    if len(content) > _encoded_bytes(max_bytes):
        raise TooLarge(f"{where} is larger than {max_bytes:,} bytes, the most of a picture", param=where)
    try:
        data = base64.b64decode("".join(content.split()) if "\n" in content else content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{where} is not base64: {str(error)[:100]}", param=where) from None
    if not data:
        raise InvalidRequest(f"{where} is empty: there are no bytes in it", param=where)
    if len(data) > max_bytes:
        raise TooLarge(f"{where} is larger than {max_bytes:,} bytes, the most of a picture", param=where)
    return data


def _encoded_bytes(num_bytes: int) -> int:
    """So many bytes in base64, with line ends every 76 characters."""
    encoded = -(-num_bytes // 3) * 4
    return encoded + -(-encoded // 76) * 2
