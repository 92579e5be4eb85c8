# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bucket into which nodes put results: look up, read ranges, sign URLs, delete."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Final

import msgspec
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from clusterodm.core.errors import ProviderError, Rejected, Unreachable
from clusterodm.providers.config import S3

#: Bytes per request, read-ahead of file access, and seconds for which a signed URL is valid.
_BLOCK: Final = 8 << 20
_READ_AHEAD: Final = 256 << 10
_VALID: Final = 6 * 3600
_CHECK: Final = "clusterodm-check"
#: Errors of obstore; some are built-in ones.
_ERRORS: Final = (BaseError, OSError, ValueError)


class StoredObject(msgspec.Struct, frozen=True):
    """An object in the bucket."""

    size: int
    etag: str


class Bucket:
    """One bucket. Every method raises Rejected or Unreachable, and nothing else."""

    def __init__(self, config: S3) -> None:
        url = config.endpoint if "//" in config.endpoint else f"https://{config.endpoint}"
        region = re.search(r"s3[.-]([a-z0-9-]+)\.amazonaws\.com", url)
        self.name = config.bucket
        self._store = S3Store(
            config.bucket,
            endpoint=url.rstrip("/"),
            access_key_id=config.access_key,
            secret_access_key=config.secret_key,
            region=region.group(1) if region else "us-east-1",
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": True,
                "allow_invalid_certificates": config.ignore_ssl,
                "connect_timeout": "10s",
                "timeout": "60s",
            },
            retry_config={"max_retries": 2},
        )

    async def check(self) -> None:
        """Write, read and delete a small object, so that wrong keys or permissions are reported at startup."""
        try:
            await obstore.put_async(self._store, _CHECK, b"ClusterODM write test")
            await obstore.head_async(self._store, _CHECK)
            await obstore.delete_async(self._store, _CHECK)
        except _ERRORS as error:
            raise _translated(error, self.name) from None

    async def find(self, key: str) -> StoredObject | None:
        """Return an object; None if there is none."""
        try:
            head = await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return None
        except _ERRORS as error:
            raise _translated(error, self.name) from None
        return StoredObject(head["size"], head["e_tag"] or "")

    async def read(self, key: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Yield a range of an object in blocks, one request each, so that a slow reader holds no request open."""
        end = start + length
        while start < end:
            stop = min(end, start + _BLOCK)
            try:
                block = await obstore.get_range_async(self._store, key, start=start, end=stop)
            except _ERRORS as error:
                raise _translated(error, self.name) from None
            yield bytes(block)
            start = stop

    def open(self, key: str, size: int) -> io.BufferedReader:
        """Open an object of this size for random access. For threads only."""
        return io.BufferedReader(_RangeReader(self._store, key, size, self.name), _READ_AHEAD)

    async def sign(self, key: str) -> str:
        """Return a URL at which anybody may fetch an object for some hours."""
        try:
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=_VALID))
        except _ERRORS as error:
            raise _translated(error, self.name) from None

    async def clear(self, prefix: str) -> None:
        """Delete all objects with a prefix."""
        try:
            async for page in obstore.list(self._store, prefix=prefix):
                await obstore.delete_async(self._store, [item["path"] for item in page])
        except _ERRORS as error:
            raise _translated(error, self.name) from None


class _RangeReader(io.RawIOBase):
    """Requests each range that is read."""

    def __init__(self, store: S3Store, key: str, size: int, bucket: str) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._bucket = bucket
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position. Raise Rejected or Unreachable."""
        count = min(len(buffer), self._size - self._position)
        if count <= 0:
            return 0
        try:
            piece = obstore.get_range(self._store, self._key, start=self._position, length=count)
        except _ERRORS as error:
            raise _translated(error, self._bucket) from None
        buffer[:count] = piece
        self._position += count
        return count


def _translated(error: Exception, bucket: str) -> ProviderError:
    """Return an error without the original text, which may contain a signature."""
    if isinstance(error, FileNotFoundError):
        return Rejected(f"there is no bucket {bucket}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return Rejected(f"the keys may not use bucket {bucket}")
    return Unreachable(f"bucket {bucket} does not answer ({type(error).__name__})")
