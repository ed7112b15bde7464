"""What users see in a notebook: results show themselves, progress is one line that changes in place, and nothing is red."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from notebook_runs import Recorded, printed, results, run_cells
from PIL import Image

CELLS = {
    "train": """
import detrkit
run = detrkit.train("light-detr-compact", DATA, output="run", epochs=2, batch_size=4, flip=0.0, crop=False)
""",
    "run": "run",
    "curves": "run.plot()",
    "evaluate": "evaluation = detrkit.evaluate(run.best, DATA, progress=True)",
    "evaluation": "evaluation",
    "precision": "evaluation.plot()",
    "analysis": "run.analysis",
    "thresholds": "run.analysis.plot()",
    "data": "validation = detrkit.open_dataset(DATA, 'val')\nvalidation",
    "model": "detrkit.load(run.best)",
    "picture": "predictor = detrkit.Predictor(run.best, threshold=0.0)\npredictor(validation.image(0))",
    "pictures": "predictor([validation.image(0), validation.image(1)])",
    "stream": "next(predictor.stream([validation.image(0)]))",
    "inspection": "detrkit.inspect_data(DATA, progress=True)",
    "workers": "detrkit.evaluate(run.best, DATA, workers=1) == evaluation",
}


@pytest.fixture(scope="module")
def notebook(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    sources = [source.strip().replace("DATA", repr(str(digits_folder))) for source in CELLS.values()]
    return run_cells(sources, tmp_path_factory.mktemp("notebook"))


def cell(notebook: Recorded, name: str) -> object:
    return notebook.nb.cells[list(CELLS).index(name)]


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_written_to_the_error_stream(notebook: Recorded, name: str) -> None:
    assert printed(cell(notebook, name), "stderr") == ""


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("run", "text/html"), ("curves", "image/png"), ("evaluation", "text/html"), ("precision", "image/png"), ("analysis", "text/html"),
        ("thresholds", "image/png"), ("data", "text/html"), ("model", "text/html"), ("picture", "image/jpeg"), ("pictures", "image/jpeg"),
        ("stream", "image/jpeg"), ("inspection", "text/html"),
    ],
)  # fmt: skip
def test_results_show_themselves(notebook: Recorded, name: str, form: str) -> None:
    (shown,) = results(cell(notebook, name))
    assert set(shown) == {"text/plain", form}
    assert "\n" not in shown["text/plain"]
    if form.startswith("image/"):
        with Image.open(io.BytesIO(base64.b64decode(shown[form]))) as picture:
            assert min(picture.size) > 200
            low, high = picture.convert("L").getextrema()
            assert high - low > 100


def test_training_talks_on_the_output_stream(notebook: Recorded) -> None:
    lines = printed(cell(notebook, "train")).splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]
    assert "Run folder: run" in lines
    assert results(cell(notebook, "train")) == []  # the line is gone


@pytest.mark.parametrize(
    ("name", "words", "total"),
    [("train", "epoch 1/2, step 0/6", 6), ("evaluate", "evaluating, image 0/5", 5), ("inspection", "decoding train, picture 0/12", 12)],
)  # fmt: skip
def test_progress_is_a_line_that_changes_in_place(notebook: Recorded, name: str, words: str, total: int) -> None:
    shown = notebook.shown[list(CELLS).index(name)]
    first, last = shown[0], shown[-1]
    assert first["text/plain"].startswith(words)
    assert f'<progress value="0" max="{total}"' in first["text/html"]
    assert words in first["text/html"]
    assert last == {"text/plain": "", "text/html": ""}


def test_workers_begin_from_a_notebook(notebook: Recorded) -> None:
    assert results(cell(notebook, "workers")) == [{"text/plain": "True"}]
