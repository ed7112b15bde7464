"""Downloads published files into a cache: a file gets its name when it is whole and checked, and goes on where it was cut."""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from detrkit.checkpoints.published import Offer
from detrkit.errors import CheckpointError, OutputError
from detrkit.files import expanded, prepare_folder, write_text
from detrkit.progress import Activity, ProgressLine

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new try
TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 16  # bytes read at once
_MEGABYTE = 1_000_000
# Answers that may be others a moment later.
_BUSY = (408, 425, 429, 500, 502, 503, 504)

Show = Callable[[int, int | None], None]  # bytes that are there, and in all


class _CutError(Exception):
    """A download ended early, and may go on."""


class _PageError(Exception):
    """A server sent a page in the place of a file, or something that nothing would tell to be whole."""


def cache_folder() -> Path:
    """The folder of downloads: that of `DETRKIT_CACHE`, otherwise where the system keeps what can be downloaded again."""
    given = os.environ.get("DETRKIT_CACHE")
    if given:
        return expanded(given).absolute()
    if sys.platform == "darwin":
        parent = "~/Library/Caches"
    elif sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(parent) / "detrkit"


def place_of(offer: Offer) -> Path:
    """Where the file of an offer is, or will be."""
    return cache_folder() / offer.file


def fetch(offer: Offer, console: Console, *, waits: Sequence[float] = WAITS, timeout: float = TIMEOUT) -> Path:
    """The file of an offer in the cache, downloaded if it is not there.

    Args:
        offer: the file.
        console: shows how far the download is.
        waits: seconds before each new try after a cut; they begin anew whenever more of the file is there than ever before.
        timeout: seconds without a byte that count as a cut.

    Returns:
        The file. Its SHA-256 was compared with what its authors publish or the server announces, or else with what was noted when it came.

    Raises:
        CheckpointError: it cannot be downloaded, is another file than the published one, or has changed since it was downloaded.
        OutputError: the cache cannot be written.
    """
    path = place_of(offer)
    if path.is_file():
        _check_kept(offer, path)
        return path
    if not offer.downloadable:
        raise CheckpointError(
            f"the {offer.what} are on Google Drive, which gives them to browsers only: get them from {offer.address} and put the file as {path}"
        )
    _prepare(path.parent)
    with _alone(path, console):
        if not path.is_file():
            _download(offer, path, console, waits, timeout)
    return path


def _prepare(folder: Path) -> None:
    try:
        prepare_folder(folder)
    except OutputError as problem:
        raise OutputError(f"{problem}, with the environment variable DETRKIT_CACHE") from problem


@contextmanager
def _alone(path: Path, console: Console) -> Iterator[None]:
    """Keeps other processes from the same file meanwhile; waits for one that came first."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.print(f"Waiting for another process that downloads {path}.")
            lock.acquire()
    except (NotImplementedError, OSError) as problem:
        raise OutputError(
            f"{path.parent} cannot be locked ({problem}): name a folder on another file system with the environment variable DETRKIT_CACHE"
        ) from problem
    try:
        yield
    finally:
        lock.release()


def _download(offer: Offer, path: Path, console: Console, waits: Sequence[float], timeout: float) -> None:
    """Fills a file beside the place, checks it, and gives it its name."""
    part = path.with_name(f"{path.name}.part")
    if offer.sha256_prefix is None:  # nothing would tell that its beginning is that of another version of the file
        part.unlink(missing_ok=True)
    begun = _size(part)
    console.print(
        f"{'Going on with' if begun else 'Downloading'} the {offer.what} from {offer.address} to {path} ({offer.licence})."
    )
    announced = _fill(part, offer, path, console, waits, timeout)
    if begun and offer.sha256_prefix is not None and not _sha256(part).startswith(offer.sha256_prefix):
        console.print("The beginning that was there did not fit: it is deleted, and the download starts again.")
        part.unlink()
        announced = _fill(part, offer, path, console, waits, timeout)
    digest, expected = _sha256(part), offer.sha256_prefix or announced
    if expected is None:
        console.print(f"The SHA-256 of {path.name} is {digest}; its authors published none to compare it with.")
    elif not digest.startswith(expected):
        part.unlink()
        raise CheckpointError(
            f"what {offer.address} sent has the SHA-256 {digest}, which does not begin with {expected} as that of the published file does, "
            f"and was deleted: try again, or get the file elsewhere and put it as {path}"
        )
    if offer.sha256_prefix is None:  # so that a file that changes in the cache is noticed all the same
        write_text(_note(path), f"{digest}  {path.name}\n")
    part.replace(path)


def _note(path: Path) -> Path:
    """Where the SHA-256 of a file is kept that has none in its name, as `sha256sum` writes it."""
    return path.with_name(f"{path.name}.sha256")


def _fill(part: Path, offer: Offer, path: Path, console: Console, waits: Sequence[float], timeout: float) -> str | None:
    """Receives a file until it is whole; goes on where it was cut, as long as tries are left. Returns the SHA-256 that the server announced, if any."""
    left, most = iter(waits), _size(part)
    with ProgressLine(console) as line:
        show = _shown_by(line, path.name, _size(part))
        while True:
            try:
                with _in_words(offer, path):
                    return _receive(offer, part, timeout, show)
            except _CutError as cut:
                if _size(part) > most:
                    left, most = iter(waits), _size(part)
                wait = next(left, None)
                if wait is None:
                    here = _size(part) if offer.sha256_prefix is not None else 0
                    kept = f"; {here / _MEGABYTE:.1f} MB are kept" if here else ""
                    raise CheckpointError(
                        f"the download of {offer.address} was cut again and again ({cut}){kept}: try again later, or get the file elsewhere and put it as {path}"
                    ) from cut
                line.print(f"The download was cut ({cut}); it goes on in {wait:g} s.")
                time.sleep(wait)


def _shown_by(line: ProgressLine, name: str, begun: int) -> Show:
    started = time.monotonic()

    def show(done: int, total: int | None) -> None:
        rate = max(1, done - begun) / max(1e-3, time.monotonic() - started)
        left = None if total is None else (total - done) / rate
        count = 0 if total is None else math.ceil(total / _MEGABYTE)
        line.show(Activity(f"Downloading {name}", "MB", done // _MEGABYTE, count, left))

    return show


def _receive(offer: Offer, part: Path, timeout: float, show: Show) -> str | None:
    """Receives what a file still lacks, or all of it from a server that cannot begin in the middle. Returns the SHA-256 that was announced.

    Raises:
        _CutError: it ended early.
        _PageError: the server sent a page, or neither it nor its authors say how long the file is.
        OSError, http.client.HTTPException: of the network.
        OutputError: the file cannot be written.
    """
    done, address = _size(part), offer.address
    with _answer(address, done, timeout) as (response, announced):
        if response is None:  # nothing is lacking
            return announced
        if response.headers.get_content_type() == "text/html":
            raise _PageError(f"{address} gives a web page, not a file of weights")
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink()
            raise _CutError("the server sent another part than it was asked for")
        done = done if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        if total is None and offer.sha256_prefix is None and not response.chunked:
            raise _PageError(
                f"{address} does not say how long the file is, and no checksum would tell that it is whole"
            )
        with _written(part, "ab" if done else "wb") as write:
            while piece := response.read1(_PIECE):
                write(piece)
                done += len(piece)
                show(done, total)
    if total is not None and done < total:
        raise _CutError(f"after {done} of {total} bytes")
    return announced


@contextmanager
def _answer(address: str, done: int, timeout: float) -> Iterator[tuple[http.client.HTTPResponse | None, str | None]]:
    """What a server answers when it is asked for a file from its byte `done` on, None if the file has no more; and the SHA-256 that it announces."""
    headers = {"User-Agent": "detrkit", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    redirects = _Redirects()
    try:
        response = _opener(redirects).open(urllib.request.Request(address, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as problem:
        if problem.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not done:
            raise
        problem.close()
        yield None, redirects.announced  # its checksum decides
        return
    with response:
        yield response, redirects.announced


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections.

    Attributes:
        announced: the SHA-256 of what is behind one, as the Hugging Face hub says it of large files; None where nobody does.
    """

    announced: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """See `urllib.request.HTTPRedirectHandler`."""
        etag = (headers.get("X-Linked-Etag") or "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", etag):  # of small files it is the SHA-1 of git
            self.announced = etag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(redirects: urllib.request.HTTPRedirectHandler) -> urllib.request.OpenerDirector:
    """Opens addresses of HTTP and HTTPS, and follows them to such addresses only."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    opener.add_handler(redirects)
    return opener


@contextmanager
def _written(part: Path, mode: str) -> Iterator[Callable[[bytes], object]]:
    """What writes to a file; its errors are not those of the network."""

    def refused(problem: OSError) -> OutputError:
        return OutputError(
            f"{part} cannot be written ({problem.strerror or problem}): make room, or name another folder with the environment variable "
            "DETRKIT_CACHE"
        )

    try:
        file = part.open(mode)
    except OSError as problem:
        raise refused(problem) from problem

    def write(piece: bytes) -> None:
        try:
            file.write(piece)
        except OSError as problem:
            raise refused(problem) from problem

    try:
        yield write
    finally:
        try:
            file.close()
        except OSError as problem:
            raise refused(problem) from problem


@contextmanager
def _in_words(offer: Offer, path: Path) -> Iterator[None]:
    """Errors of the network become one sentence, or a cut after which a download goes on."""
    remedy = f"get the file elsewhere and put it as {path}"
    try:
        yield
    except OutputError:
        raise
    except _PageError as problem:
        raise CheckpointError(f"{problem}: {remedy}") from problem
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code in _BUSY:
            raise _CutError(f"the server answers {problem.code} {problem.reason}") from problem
        raise CheckpointError(
            f"the {offer.what} cannot be downloaded, since {offer.address} answers {problem.code} {problem.reason}: {remedy}"
        ) from problem
    except urllib.error.URLError as problem:
        if _passes(problem.reason):
            raise _CutError(_reason(problem.reason)) from problem
        raise CheckpointError(
            f"the {offer.what} cannot be downloaded ({_reason(problem.reason)}): where there is a network, get {offer.address} and put the file as "
            f"{path}"
        ) from problem
    except (OSError, http.client.HTTPException) as problem:  # of a connection that there was
        raise _CutError(_reason(problem)) from problem


def _passes(problem: object) -> bool:
    """Whether a connection may succeed a moment later."""
    if isinstance(problem, ssl.SSLError):
        return not isinstance(problem, ssl.SSLCertVerificationError)
    return isinstance(problem, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError)


def _reason(problem: object) -> str:
    if isinstance(problem, TimeoutError):
        return "nothing came in time"
    if isinstance(problem, socket.gaierror):
        return "no network, or no such computer in it"
    return str(getattr(problem, "strerror", None) or problem or type(problem).__name__)


def _check_kept(offer: Offer, path: Path) -> None:
    """Refuses a file in the cache that is not the published one, or no longer the one that came."""
    expected, note = offer.sha256_prefix, _note(path)
    if expected is None and note.is_file():
        expected = note.read_text(encoding="utf-8").partition(" ")[0]
        if not _sha256(path).startswith(expected):
            raise CheckpointError(
                f"{path} has changed since it was downloaded, when its SHA-256 was {expected}: delete it and {note.name}, and it is downloaded again"
            )
    elif expected is not None and not _sha256(path).startswith(expected):
        raise CheckpointError(
            f"{path} is not the file that {offer.address} offers, whose SHA-256 begins with {expected}: delete it, and it is downloaded again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
