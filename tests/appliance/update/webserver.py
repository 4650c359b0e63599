"""A web server that serves a folder with Range and ETag, and can be told to misbehave like a hospital's link."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Site:
    """A running server. cuts: path suffix → after how many bytes its next responses break off, one an entry."""

    root: Path
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)  # path suffix → statuses to answer first
    ranges: bool = True

    def ranges_of(self, suffix: str) -> list[str]:
        """The Range headers with which a file was asked for, in order."""
        return [asked for path, asked in self.requests if path.endswith(suffix)]


def _next(table: dict[str, list[int]], path: str) -> int | None:
    for suffix, entries in table.items():
        if path.endswith(suffix) and entries:
            return entries.pop(0)
    return None


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            site.requests.append((self.path, asked))
            file = site.root / self.path.lstrip("/")
            status = _next(site.failures, self.path) or (200 if file.is_file() else 404)
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = self._start(asked, etag)
            if start is not None and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start is not None else 200)
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start or 0 :]
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut = _next(site.cuts, self.path)
            self.wfile.write(body if cut is None else body[:cut])
            self.close_connection = True

        def _start(self, asked: str, etag: str) -> int | None:
            match = re.match(r"bytes=(\d+)-$", asked)
            if not match or not site.ranges or self.headers.get("If-Range", etag) != etag:
                return None
            return int(match.group(1))

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Site]:
    """Serve `root` on a free port of 127.0.0.1."""
    site = Site(root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
