"""What the README tells people to do works: its Python and its commands run in order in an empty folder, with fewer steps of training."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_commands(folder: Path) -> None:
    commands = [line for block in blocks("console") for line in block.splitlines() if line.startswith("detrkit ")]
    assert len(commands) >= 5
    for command in commands:
        words = command.split("#")[0].split()
        if words[1] == "demo":
            words += ["--steps", "6"]
        if words[1] == "train" and "--resume" not in words:
            words += ["--steps", "6"]  # wins over --epochs
        run(words, folder)
    for name in ("report.html", "metrics.json", "best.safetensors", "curves.png"):
        assert (folder / "runs" / "demo" / name).is_file()
    assert (folder / "predictions" / "detections.json").is_file()


def test_python(folder: Path) -> None:
    code = blocks("python")
    assert code
    for number, block in enumerate(code):
        shutil.rmtree(folder / "runs" / "digits", ignore_errors=True)
        script = folder / f"block{number}.py"
        script.write_text(block.replace("epochs=20", "steps=6"))
        assert "AP" in run([sys.executable, str(script)], folder)


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
