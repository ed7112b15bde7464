"""The notebook in docs does what it says: it runs, nothing is red, its figures are what its text claims, and the outputs that are stored are its own."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from notebook_runs import code_digest, printed, results, run_notebook
from PIL import Image

from detrkit.data import open_dataset
from detrkit.evaluation.errors import KINDS

PATH = Path(__file__).resolve().parent.parent / "docs" / "first_detector.ipynb"
LARGEST = 500_000  # bytes of the file
IMAGES = ("image/png", "image/jpeg")


def stored() -> NotebookNode:
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook: NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def forms(cell: NotebookNode) -> list[set[str]]:
    """The types of what a cell shows."""
    return [set(each) for each in results(cell)]


def errors_of(notebook: NotebookNode) -> dict[str, int]:
    """How many errors of each kind the analysis counts."""
    (cell,) = (cell for cell in code_cells(notebook) if cell.source == "run.analysis")
    (shown,) = results(cell)
    rows = re.findall(
        r"<td[^>]*>([a-z]+)</td><td[^>]*>(\d+)</td><td[^>]*>[^<]*</td><td[^>]*>[^<]*</td>", shown["text/html"]
    )
    return {kind: int(number) for kind, number in rows if kind in KINDS}


def figures_of(notebook: NotebookNode) -> dict[str, float]:
    """The figures in the table of the evaluation."""
    (cell,) = (cell for cell in code_cells(notebook) if cell.source == "run.evaluation")
    (shown,) = results(cell)
    rows = re.findall(r"<td[^>]*>(AP\w*)</td><td[^>]*>(0\.\d+)</td>", shown["text/html"])
    return {name: float(value) for name, value in rows}


def check(notebook: NotebookNode) -> None:
    """What holds of every run, also of the one that is stored."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        assert cell.execution_count == number, cell.source
        assert printed(cell, "stderr") == "", cell.source
        assert not [each for each in cell.outputs if each.output_type == "error"], cell.source
        for shown in results(cell):
            for form in set(shown) & set(IMAGES):
                with Image.open(io.BytesIO(base64.b64decode(shown[form]))) as picture:
                    low, high = picture.convert("L").getextrema()
                    assert min(picture.size) > 200
                    assert high - low > 100
    errors = errors_of(notebook)
    assert errors.keys() == KINDS.keys()
    assert errors["missed"] + errors["place"] > sum(errors.values()) / 2  # as the text says
    claims = {name: float(least) for name, least in re.findall(r"(AP\d*) is above (0\.\d+)", text_of(notebook))}
    assert claims.keys() >= {"AP50"}
    for name, least in claims.items():
        assert figures_of(notebook)[name] > least


def test_what_is_stored_is_of_this_code_and_small() -> None:
    notebook = stored()
    nbformat.validate(notebook)
    assert PATH.stat().st_size < LARGEST
    assert notebook.metadata["code_digest"] == code_digest(notebook), "run it anew: make notebook"
    check(notebook)
    train = next(cell for cell in code_cells(notebook) if "detrkit.train(" in cell.source)
    epochs = int(re.findall(r"epochs=(\d+)", train.source)[0])
    assert f"epoch {epochs}/{epochs}: loss" in printed(train)
    assert "images up to 64 × " in printed(train)
    shown = [form for cell in code_cells(notebook) for types in forms(cell) for form in types if form != "text/plain"]
    assert {form: shown.count(form) for form in set(shown)} == {"text/html": 3, "image/png": 3, "image/jpeg": 3}
    assert "/home/" not in PATH.read_text(encoding="utf-8")


def test_it_links_to_what_is_there_and_is_linked_to() -> None:
    for target in re.findall(r"\]\(((?!https:)[^)#]+)\)", text_of(stored())):
        assert (PATH.parent / target).exists(), target
    for page in (PATH.parents[1] / "README.md", PATH.parent / "quickstart.md"):
        assert "first_detector.ipynb" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    again = stored()
    for cell in code_cells(again):
        cell.outputs, cell.execution_count = [], None
    run_notebook(again, tmp_path)
    check(again)
    for before, now in zip(code_cells(stored()), code_cells(again), strict=True):
        assert forms(now) == forms(before), now.source
        assert bool(printed(now)) == bool(printed(before)), now.source
    data = tmp_path / "runs" / "first_detector_data"
    assert [len(open_dataset(data, split)) for split in ("train", "val")] == [480, 80]
