"""Downloads from a server that cuts, sends wrong bytes, leads elsewhere, is slow or is not there."""

from __future__ import annotations

import hashlib
import io
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from misbehaving import Answer, Server, serving
from rich.console import Console

from detrkit.checkpoints.downloads import cache_folder, fetch, place_of
from detrkit.checkpoints.published import Offer, coco_offer
from detrkit.errors import CheckpointError, DetrkitError, OutputError

CONTENT = bytes(range(256)) * 1200  # 300 KB, more than is read at once
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def offer_at(address: str, prefix: str | None = DIGEST[:8]) -> Offer:
    return Offer("weights of someone", address, "someone.pth", "MIT", prefix)


def fetched(server: Server, prefix: str | None = DIGEST[:8], tries: int = 3) -> tuple[Path, str]:
    text = io.StringIO()
    path = fetch(
        offer_at(server.address, prefix), Console(file=text, width=1000), waits=(0.0,) * (tries - 1), timeout=0.2
    )
    return path, text.getvalue()


def complaint(server: Server, prefix: str | None = DIGEST[:8], kind: type[DetrkitError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        fetched(server, prefix)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([], [0]),
        ([Answer(cut_after=100_000)], [0, 100_000]),
        ([Answer(cut_after=100_000), Answer(cut_after=50_000), Answer(cut_after=1)], [0, 100_000, 150_000, 150_001]),
        ([Answer(cut_after=100_000), Answer(knows_ranges=False)], [0, 100_000]),
        ([Answer(cut_after=100_000), Answer(shifted=7)], [0, 100_000, 0]),
        ([Answer(status=503)], [0, 0]),
        ([Answer(wait=0.5)], [0, 0]),
        ([Answer(cut_after=100_000, stall=0.6)], [0, 100_000]),
        ([Answer(status=302, location="/elsewhere.pth")], [0, 0]),
        ([Answer(cut_after=9), Answer(status=307, location="/elsewhere.pth")], [0, 9, 9]),
    ],
    ids=["well", "cut", "cuts", "no-ranges", "wrong-part", "busy", "slow", "stalled", "redirect", "redirect-of-a-part"],
)
def test_a_file_arrives_whole(answers: Sequence[Answer], asked: list[int], cache: Path) -> None:
    with serving(CONTENT, answers) as server:
        path, printed = fetched(server)
        assert fetched(server) == (path, "")  # it is there: nothing is asked for, and nothing said
    assert path == cache / "someone.pth"
    assert path.read_bytes() == CONTENT
    assert [first for _, first in server.asked] == asked
    assert f"Downloading the weights of someone from {server.address} to {path} (MIT)." in printed
    assert sorted(each.name for each in cache.iterdir() if not each.name.endswith(".lock")) == ["someone.pth"]


def test_a_download_of_an_earlier_process_goes_on(cache: Path) -> None:
    cache.mkdir()
    (cache / "someone.pth.part").write_bytes(CONTENT[:1000])
    with serving(CONTENT) as server:
        path, printed = fetched(server)
    assert (path.read_bytes(), server.asked) == (CONTENT, [("/weights-of-someone.pth", 1000)])
    assert printed.startswith("Going on with the weights of someone from ")


def test_a_whole_file_without_its_name_is_not_downloaded_again(cache: Path) -> None:
    cache.mkdir()
    (cache / "someone.pth.part").write_bytes(CONTENT)
    with serving(CONTENT) as server:
        assert fetched(server)[0].read_bytes() == CONTENT
    assert server.asked == [("/weights-of-someone.pth", len(CONTENT))]


@pytest.mark.parametrize("beginning", [b"of another version", CONTENT + b"and more"])
def test_a_beginning_that_does_not_fit_is_dropped(beginning: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "someone.pth.part").write_bytes(beginning)
    with serving(CONTENT) as server:
        path, printed = fetched(server)
    assert path.read_bytes() == CONTENT
    assert [first for _, first in server.asked] == [len(beginning), 0]
    assert "did not fit: it is deleted, and the download starts again" in printed


def test_wrong_bytes_are_deleted_and_said(cache: Path) -> None:
    with serving(CONTENT, [Answer(content=b"something else")]) as server:
        sentence = complaint(server)
    assert sentence == (
        f"what {server.address} sent has the SHA-256 {hashlib.sha256(b'something else').hexdigest()}, which does not begin with {DIGEST[:8]} as "
        f"that of the published file does, and was deleted: try again, or get the file elsewhere and put it as {cache / 'someone.pth'}"
    )
    assert not [each for each in cache.iterdir() if not each.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(status=404), "cannot be downloaded, since ADDRESS answers 404 Not Found: get the file elsewhere and put it as PLACE"),
        (Answer(kind="text/html", content=b"<html>"), "ADDRESS gives a web page, not a file of weights: get the file elsewhere"),
        (Answer(status=302, location="ftp://127.0.0.1/x"), "unknown url type: ftp"),
        (Answer(status=302, location="file:///etc/passwd"), "put it as PLACE"),
    ],
    ids=["404", "page", "ftp", "file"],
)  # fmt: skip
def test_what_does_not_get_better_is_not_tried_again(answer: Answer, words: str, cache: Path) -> None:
    with serving(CONTENT, [answer]) as server:
        sentence = complaint(server)
    words = words.replace("ADDRESS", server.address).replace("PLACE", str(cache / "someone.pth"))
    assert words in sentence
    assert len(server.asked) == 1
    assert not (cache / "someone.pth").exists()


def test_cuts_without_end_keep_what_came(cache: Path) -> None:
    answers = [Answer(cut_after=200_000), *[Answer(status=500)] * 9]
    with serving(CONTENT, answers) as server:
        sentence = complaint(server)
    assert sentence == (
        f"the download of {server.address} was cut again and again (the server answers 500 Internal Server Error); 0.2 MB are kept: try again later, "
        f"or get the file elsewhere and put it as {cache / 'someone.pth'}"
    )
    assert (cache / "someone.pth.part").read_bytes() == CONTENT[:200_000]


def test_without_a_network_it_says_what_to_get_and_where_to_put_it(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/weights.pth"
    with pytest.raises(CheckpointError) as caught:
        fetch(offer_at(address), Console(file=io.StringIO()))
    assert str(caught.value) == (
        f"the weights of someone cannot be downloaded (Connection refused): where there is a network, get {address} and put the file as "
        f"{cache / 'someone.pth'}"
    )
    (cache / "someone.pth").write_bytes(CONTENT)  # put there by hand
    assert fetch(offer_at(address), Console(file=io.StringIO())) == cache / "someone.pth"


def test_another_file_in_the_place_of_the_published_one_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "someone.pth").write_bytes(b"another")
    with serving(CONTENT) as server:
        sentence = complaint(server)
    assert sentence.startswith(
        f"{cache / 'someone.pth'} is not the file that {server.address} offers, whose SHA-256 begins with {DIGEST[:8]}: "
    )
    assert (cache / "someone.pth").read_bytes() == b"another"


def test_a_file_without_a_published_checksum_is_named_by_its_own(cache: Path) -> None:
    cache.mkdir()
    (cache / "someone.pth.part").write_bytes(CONTENT[:1000])  # nothing tells whether it is of the same version
    with serving(CONTENT, [Answer(cut_after=5)]) as server:
        path, printed = fetched(server, prefix=None)
    assert path.read_bytes() == CONTENT
    assert [first for _, first in server.asked] == [0, 5]
    assert f"The SHA-256 of someone.pth is {DIGEST}" in printed


def test_a_file_without_a_published_checksum_must_stay_what_it_was(cache: Path) -> None:
    with serving(CONTENT) as server:
        path, _ = fetched(server, prefix=None)
        assert (cache / "someone.pth.sha256").read_text() == f"{DIGEST}  someone.pth\n"
        assert fetched(server, prefix=None) == (path, "")
        path.write_bytes(CONTENT[:-1])
        assert complaint(server, None) == (
            f"{path} has changed since it was downloaded, when its SHA-256 was {DIGEST}: delete it and someone.pth.sha256, and it is downloaded "
            "again"
        )
        path.unlink()
        assert fetched(server, prefix=None)[0].read_bytes() == CONTENT


def test_what_a_redirection_announces_is_checked(cache: Path) -> None:
    """The Hugging Face hub gives the SHA-256 of large files that way, and of small ones something else."""
    for etag, content, said in (
        (DIGEST, CONTENT, None),
        (DIGEST, b"something else", "which does not begin with"),
        ("0" * 40, CONTENT, "published none to compare it with"),
    ):
        answers = [Answer(status=302, location="/elsewhere.pth", etag=etag), Answer(content=content)]
        with serving(CONTENT, answers) as server:
            if content != CONTENT:
                assert f"{said} {DIGEST} as that of the published file does" in complaint(server, None)
                assert not (cache / "someone.pth").exists()
                continue
            path, printed = fetched(server, prefix=None)
        assert ("published none" in printed) == (said is not None)
        path.unlink()


def test_google_drive_gives_instructions(cache: Path) -> None:
    offer = coco_offer("deformable-detr-r50")
    assert offer is not None
    with pytest.raises(CheckpointError) as caught:
        fetch(offer, Console(file=io.StringIO()))
    assert str(caught.value) == (
        "the COCO weights of deformable-detr-r50 (AP 0.445) are on Google Drive, which gives them to browsers only: get them from "
        f"https://drive.google.com/file/d/1nDWZWHuRwtwGden77NLM9JoWe-YisJnA/view and put the file as {cache / 'deformable-detr-r50.pth'}"
    )


def test_two_at_once_download_once(cache: Path) -> None:
    with serving(CONTENT, [Answer(wait=0.1)]) as server, ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda _: fetched(server), range(2)))
    assert [path.read_bytes() for path, _ in results] == [CONTENT, CONTENT]
    assert len(server.asked) == 1
    assert sorted(printed.split()[0] for _, printed in results) == ["Downloading", "Waiting"]


def test_a_cache_that_cannot_be_written_is_said(cache: Path) -> None:
    cache.write_text("a file")
    with serving(CONTENT) as server:
        sentence = complaint(server, kind=OutputError)
    assert sentence.startswith(f"the folder {cache} cannot be written to (")
    assert sentence.endswith("): choose another, with the environment variable DETRKIT_CACHE")
    assert server.asked == []


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {}, ".cache/detrkit"),
        ("linux", {"XDG_CACHE_HOME": "HOME/xdg"}, "xdg/detrkit"),
        ("darwin", {}, "Library/Caches/detrkit"),
        ("linux", {"DETRKIT_CACHE": "~/mine"}, "mine"),
    ],
)
def test_where_downloads_are_kept(
    platform: str, variables: dict[str, str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DETRKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    assert cache_folder() == tmp_path / wanted
    assert place_of(offer_at("http://x")) == tmp_path / wanted / "someone.pth"


def test_a_file_that_nothing_would_tell_to_be_whole_is_refused(cache: Path) -> None:
    with serving(CONTENT, [Answer(says_length=False, cut_after=9)]) as server:
        assert complaint(server, None).startswith(
            f"{server.address} does not say how long the file is, and no checksum would tell that it is whole: "
        )
    with serving(CONTENT, [Answer(says_length=False)]) as server:
        assert fetched(server)[0].read_bytes() == CONTENT
