"""A local server that answers each request as a test says, and otherwise serves one file as servers should."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(frozen=True)
class Answer:
    """What the server does with one request.

    Attributes:
        status: 200 to serve the file.
        content: served in its place.
        cut_after: bytes after which the connection ends.
        stall: seconds that it stays open without a byte before that.
        knows_ranges: whether a part of the file can be asked for.
        shifted: bytes by which a part that was asked for begins too late.
        location: for redirections.
        etag: of the file behind a redirection.
        wait: seconds before it answers.
        kind: of the content.
        says_length: whether it says how long the content is.
    """

    status: int = 200
    content: bytes | None = None
    cut_after: int | None = None
    stall: float = 0.0
    knows_ranges: bool = True
    shifted: int = 0
    location: str = ""
    etag: str = ""
    wait: float = 0.0
    kind: str = "application/octet-stream"
    says_length: bool = True


@dataclass
class Server:
    """A running server.

    Attributes:
        address: of the file.
        asked: for every request, its path and the first byte that it asked for.
    """

    address: str
    asked: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def serving(content: bytes, answers: Sequence[Answer] = ()) -> Iterator[Server]:
    """Serves a file; the first requests are answered as given, further ones as they should be."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = left.pop(0) if left else Answer()
            first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ("", "0"))[1])
            server.asked.append((self.path, first))
            self.close_connection = True
            time.sleep(answer.wait)
            self.answer(answer, first)

        def answer(self, answer: Answer, first: int) -> None:
            body = content if answer.content is None else answer.content
            whole, status = len(body), answer.status
            if status == 200 and first and answer.knows_ranges:
                status, first = (206 if first < whole else 416), first + answer.shifted
                body = body[first:]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
            if answer.location:
                self.send_header("Location", answer.location)
            if answer.etag:
                self.send_header("X-Linked-Etag", f'"{answer.etag}"')
            self.send_header("Content-Type", answer.kind)
            if answer.says_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: answer.cut_after])
            self.wfile.flush()
            time.sleep(answer.stall)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/weights-of-someone.pth")
    thread = Thread(target=lambda: http.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
