"""HTTP downloads that survive slow links: bounded in size and time, retried, and resumed where they broke.

`Fetcher` is python-tuf's network port (small metadata, never resumed) and has `resume` for targets: bytes are appended
to a partial file; after a break, a crash or a power cut it asks for the rest with Range and If-Range (RFC 9110 13.1.5,
14.2). A partial file is nothing that may be used: whoever calls `resume` checks length and hash afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient.fetcher import FetcherInterface

from core import durable

logger = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_SYNC_EVERY = 8 * 1024 * 1024  # bytes that a power cut may cost
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")


class Abandoned(Exception):
    """The caller no longer wants this download. What came so far stays for another time."""


@dataclass(frozen=True)
class Patience:
    """How long to bear with a link. connect_s, gap_s: for a connection, between two bytes. tries: without progress."""

    connect_s: float = 15.0
    gap_s: float = 60.0
    tries: int = 5
    pause_s: float = 1.0  # before the second try; doubled each time, with jitter
    longest_pause_s: float = 60.0


class Fetcher(FetcherInterface):
    """Downloads over HTTP or HTTPS. ca_file: trusted for HTTPS besides the system's authorities."""

    def __init__(
        self,
        ca_file: Path | None = None,
        patience: Patience = Patience(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._patience = patience
        self._sleep = sleep
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=patience.connect_s, read=patience.gap_s),
            retries=False,
            ssl_context=_tls(ca_file),
            headers={"User-Agent": "onescan-updater", "Accept-Encoding": "identity"},
        )

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Metadata: small, so a broken download starts anew, a few times."""
        for attempt in range(1, self._patience.tries + 1):
            try:
                return iter([self._whole(url)])
            except (DownloadHTTPError, DownloadLengthMismatchError) as error:
                if isinstance(error, DownloadLengthMismatchError) or error.status_code not in _TRANSIENT:
                    raise
                self._pause(attempt, error)
            except (SlowRetrievalError, DownloadError) as error:
                self._pause(attempt, error)
        raise AssertionError("the last pause raises")

    def _whole(self, url: str) -> bytes:
        content = bytearray()
        with self._response(url, {}) as response:
            if response.status != 200:
                raise DownloadHTTPError(f"{url} answered {response.status}", response.status)
            for chunk in _chunks(response):
                content += chunk
                if len(content) > _LARGEST_METADATA:
                    raise DownloadLengthMismatchError(f"{url} is larger than {_LARGEST_METADATA} bytes")
        return bytes(content)

    def resume(self, url: str, partial: Path, length: int, wanted: Callable[[], bool] = lambda: True) -> None:
        """Bring `partial` to `length` bytes, from what is there already.

        `wanted` is asked at every chunk. Abandoned: it said no. DownloadError: the server is away or refuses; what came
        so far stays. DownloadLengthMismatchError: the server sends more than `length`.
        """
        attempt, best = 1, _size(partial)
        while _size(partial) < length:
            try:
                self._append(url, partial, length, wanted)
            except DownloadLengthMismatchError:
                raise
            except DownloadHTTPError as error:
                if error.status_code not in _TRANSIENT:
                    raise
                self._pause(attempt, error)
            except DownloadError as error:
                if _size(partial) > best:  # further than ever before: the link is bad, not dead
                    attempt, best = 1, _size(partial)
                self._pause(attempt, error)
            attempt += 1
        if _size(partial) > length:
            raise DownloadLengthMismatchError(f"{partial.name} is longer than the {length} bytes signed for")
        if length == 0:
            partial.touch()

    def _append(self, url: str, partial: Path, length: int, wanted: Callable[[], bool]) -> None:
        have = _size(partial)
        tag = _tag_of(partial)
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and tag.exists():
            headers["If-Range"] = tag.read_text(encoding="latin-1")
        with self._response(url, headers) as response:
            if (
                response.status == 416 and have
            ):  # the server's file is shorter than what we have: ours is of another one
                forget(partial)
                raise DownloadError(f"{url} is shorter than what was downloaded of it")
            if response.status not in (200, 206):
                raise DownloadHTTPError(f"{url} answered {response.status}", response.status)
            if response.status == 206 and _start(response) != have:
                raise DownloadError(f"{url} answered another range than the one asked for")
            if response.status == 200:  # from the start: no ranges there, or the file is another one now
                forget(partial)
                if etag := _strong_etag(response):
                    durable.write_bytes(tag, etag.encode("latin-1"))
            with _appending(partial) as file:
                self._pour(response, file, length, wanted)
        if _size(partial) < length:
            raise DownloadError(f"{url} ended early")

    def _pour(
        self, response: urllib3.BaseHTTPResponse, file: BinaryIO, length: int, wanted: Callable[[], bool]
    ) -> None:
        unsynced = 0
        for chunk in _chunks(response):
            if file.tell() + len(chunk) > length:
                raise DownloadLengthMismatchError(f"the server sends more than the {length} bytes signed for")
            file.write(chunk)
            unsynced += len(chunk)
            if unsynced >= _SYNC_EVERY:
                file.flush()
                os.fdatasync(file.fileno())
                unsynced = 0
            if not wanted():
                raise Abandoned

    @contextlib.contextmanager
    def _response(self, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """A response whose every network failure, also while reading, is a DownloadError."""
        response = None
        try:
            response = self._pool.request(
                "GET", url, headers={**self._pool.headers, **headers}, preload_content=False, redirect=False
            )
            yield response
        except urllib3.exceptions.TimeoutError as error:
            raise SlowRetrievalError(f"{url}: nothing came for too long") from error
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"{url}: {error}") from error
        finally:
            if response is not None:
                response.close()

    def _pause(self, attempt: int, error: DownloadError) -> None:
        """Wait before the next try, or give up with what went wrong."""
        if attempt >= self._patience.tries:
            raise error
        longest = min(self._patience.longest_pause_s, self._patience.pause_s * 2 ** (attempt - 1))
        logger.info("download interrupted, trying again", extra={"attempt": attempt, "why": str(error)})
        self._sleep(longest * random.uniform(0.5, 1.0))


_LARGEST_METADATA = 5_000_000  # bytes; python-tuf's own bound for targets.json


def forget(partial: Path) -> None:
    """Drop a partial download and what is known about it."""
    partial.unlink(missing_ok=True)
    _tag_of(partial).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=str(ca_file))
    return context


@contextlib.contextmanager
def _appending(partial: Path) -> Iterator[BinaryIO]:
    """The one file of ours that is written in place: it can't be atomic, so its content is verified before use."""
    with partial.open("ab") as file:
        try:
            yield file
        finally:
            file.flush()
            os.fdatasync(file.fileno())


def _tag_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _strong_etag(response: urllib3.BaseHTTPResponse) -> str:
    """If-Range takes strong validators only (RFC 9110 13.1.5)."""
    etag = response.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it arrives: on a slow link a large read would lose what came of it when the link breaks.

    Never decoded: length and hash are signed for the file, and a compressed body could be a bomb.
    """
    while chunk := response.read1(_CHUNK, decode_content=False):
        yield chunk


def _start(response: urllib3.BaseHTTPResponse) -> int:
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1
