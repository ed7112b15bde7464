"""What the README tells people to do works: its Python and its commands run in order in an empty folder, with fewer steps of training."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_commands import ForkedCommands, forked_commands

from detrkit.data import read_digits

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with one photo, which the README's examples speak of."""
    place = tmp_path_factory.mktemp("readme")
    read_digits("val", images=1).image(0).save(place / "photo.jpg")
    return place


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    with forked_commands(tmp_path_factory.mktemp("printed")) as forked:
        yield forked


def run(commands: ForkedCommands, command: list[str], folder: Path) -> str:
    result = commands.run(command, folder)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_commands(folder: Path, commands: ForkedCommands) -> None:
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("detrkit ")]
    assert len(lines) >= 5
    for command in lines:
        words = command.split("#")[0].split()
        if words[1] == "demo":
            words += ["--steps", "6"]
        if words[1] == "train" and "--resume" not in words:
            words += ["--steps", "6"]  # wins over --epochs
        run(commands, words, folder)
    for name in ("report.html", "metrics.json", "best.safetensors", "curves.png"):
        assert (folder / "runs" / "demo" / name).is_file()
    assert (folder / "predictions" / "detections.json").is_file()


def test_python(folder: Path, commands: ForkedCommands) -> None:
    code = blocks("python")
    assert code
    for number, block in enumerate(code):
        shutil.rmtree(folder / "runs" / "digits", ignore_errors=True)
        script = folder / f"block{number}.py"
        script.write_text(block.replace("epochs=20", "steps=6"))
        assert "AP" in run(commands, ["python", str(script)], folder)


def test_a_command_that_fails_is_seen(folder: Path, commands: ForkedCommands) -> None:
    """Of how these tests run commands: their exit codes, what they print, and that none changes another."""
    refused = commands.run(["detrkit", "predict", "none.safetensors", "photo.jpg"], folder)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "detrkit: there is no weight file none.safetensors: check the path\n"
    broken = commands.run(["python", "-c", "import json; json.loads = None; 1 / 0"], folder)
    assert broken.returncode == 1
    assert "ZeroDivisionError" in broken.stderr
    assert commands.run(["python", "-c", "import json; print(callable(json.loads))"], folder).stdout == "True\n"
    assert commands.run(["python", "-c", "raise SystemExit(3)"], folder).returncode == 3


def test_the_installed_command_starts() -> None:
    program = Path(sys.executable).parent / "detrkit"
    result = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage: detrkit" in result.stdout


def test_make_commands_exist() -> None:
    named = set(re.findall(r"^make (\w[\w-]*)", "\n".join(blocks("console")), flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, check=True, capture_output=True)


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def test_tree_names_what_there_is() -> None:
    """Every file and folder in the annotated tree exists, and every package folder is in it."""
    tree = next(block for block in blocks("text") if "src/detrkit" in block)
    named = re.findall(r"^[│├└─ ]+([\w./]+)", tree, flags=re.MULTILINE)
    package = REPOSITORY / "src" / "detrkit"
    for name in named:
        assert (package / name).exists() or (REPOSITORY / name).exists(), name
    for path in package.iterdir():
        if path.name not in ("__pycache__", "py.typed", "__main__.py"):
            assert path.name in {name.rstrip("/") for name in named}, path.name


def test_table_of_variants_is_the_catalog() -> None:
    from detrkit.models.catalog import CATALOG

    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]+|-) \|$", README, flags=re.MULTILINE)
    expected = [(name, "-" if each.ap is None else f"{each.ap:.3f}") for name, each in CATALOG.items()]
    assert rows == expected
