"""The documentation does what it says: marked blocks run as they are written, the worked example passes its tests, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_commands import ForkedCommands, forked_commands

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
TESTED = re.compile(r"^<!-- tested -->\n```(python|console)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
EDIT = re.compile(r"^<!-- edit -->\n```diff\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = [page.name for page in sorted(DOCS.glob("*.md")) if TESTED.search(page.read_text(encoding="utf-8"))]
BINARIES = Path(sys.executable).parent


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    with forked_commands(tmp_path_factory.mktemp("printed")) as forked:
        yield forked


@pytest.mark.parametrize("page", PAGES)
def test_marked_blocks_run(page: str, tmp_path: Path, commands: ForkedCommands) -> None:
    for language, text in TESTED.findall((DOCS / page).read_text(encoding="utf-8")):
        lines = [text] if language == "python" else [line for line in text.splitlines() if line.strip()]
        for line in lines:
            # Training goes on for a few steps only; that a model learns is examined elsewhere.
            line = re.sub(r"--steps \d+", "--steps 6", line)
            command = ["python", "-c", line] if language == "python" else shlex.split(line)
            result = commands.run(command, tmp_path)
            assert result.returncode == 0, f"{page}: {line}\n{result.stdout}\n{result.stderr}"


def test_worked_examples_pass_their_tests(tmp_path: Path) -> None:
    """All that the page about new variants adds, in a copy of the package."""
    text = (DOCS / "adding_a_variant.md").read_text(encoding="utf-8")
    for folder in ("src", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for name, content in FILE.findall(text):
        assert not (tmp_path / name).exists(), name
        (tmp_path / name).write_text(content, encoding="utf-8")
    for block in EDIT.findall(text):
        for name, lines in re.findall(r"^# (\S+)\n((?:[ +-].*\n)+)", block, flags=re.MULTILINE):
            path = tmp_path / name
            path.write_text(edited(path.read_text(encoding="utf-8"), lines, name), encoding="utf-8")
    names = "point-detr or detr-r34-c4 or squeezenet"
    files = ("tests/test_every_variant.py", "tests/training/test_pieces.py")
    output = run_in(tmp_path, sys.executable, "-m", "pytest", "-v", *files, "-k", names)
    for name in ("export[point-detr-compact]", "export[detr-squeezenet]", "every_tensor_has_one_name[detr-r34-c4]"):
        assert f"test_{name} PASSED" in output
    run_in(tmp_path, sys.executable, "-m", "detrkit.models.listing")
    assert "point-detr-compact" in run_in(tmp_path, sys.executable, "-m", "detrkit", "models", "point-detr-compact")
    assert "0 broken" in run_in(tmp_path, str(BINARIES / "lint-imports"))


def edited(text: str, lines: str, name: str) -> str:
    """A file after an edit of the page: "+" adds a line, "-" takes one out, others show the place, "…" is any rest of a line."""
    old = "".join(line[1:] for line in lines.splitlines(keepends=True) if line[0] in " -")
    new = "".join(line[1:] for line in lines.splitlines(keepends=True) if line[0] in " +")
    pattern = "(.*)".join(re.escape(part) for part in old.split("…"))
    places = list(re.finditer(rf"^{pattern}", text, flags=re.MULTILINE))
    assert len(places) == 1, f"{name} has {len(places)} places like\n{old}"
    for rest in places[0].groups():
        new = new.replace("…", rest, 1)
    return text[: places[0].start()] + new + text[places[0].end() :]


def run_in(folder: Path, *command: str) -> str:
    """What a command prints in a folder whose package takes the place of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_pages_link_to_what_is_there() -> None:
    for page in (*DOCS.glob("*.md"), REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
