"""How long a run was, where its last epoch ended early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detrkit.comparison.cells import epochs_text
from detrkit.comparison.contestants import Contestant
from detrkit.comparison.figures import Training
from detrkit.comparison.lengths import epoch_steps_of, epochs_at
from detrkit.comparison.outcome import Outcome
from detrkit.comparison.plan import validation_of
from detrkit.comparison.runs import Run
from detrkit.training.options import resolve
from detrkit.training.run_folder import append_to_log, create
from detrkit.training.training_options import TrainingOptions


def test_an_epoch_that_ended_early_counts_by_its_share(digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = resolve(TrainingOptions("detr-compact", str(digits_folder), output=str(folder), batch_size=2, steps=3))
    create(options, validation_of(str(digits_folder), {}))  # 5 images, so 2 steps
    append_to_log(folder / "log.csv", {"epoch": 1, "step": 2})
    append_to_log(folder / "log.csv", {"epoch": 2, "step": 3})
    assert epoch_steps_of(folder) == 2
    training = Training.of(Run(Contestant("detr-compact", variant="detr-compact"), 0, folder), Outcome())
    assert (training.length("epoch"), training.length("step")) == (1.5, 3)


def test_epochs_are_those_of_the_log_where_their_steps_are_not_known(digits_folder: Path, tmp_path: Path) -> None:
    assert epoch_steps_of(tmp_path) is None
    assert epochs_at({"epoch": 2.0, "step": 3.0}, None) == 2.0
    assert epochs_at({"epoch": 2.0}, 2) == 2.0
    assert epochs_at({"epoch": 2.0, "step": 9.0}, 2) == 2.0  # of a run whose data have grown
    folder = tmp_path / "run"
    create(
        resolve(TrainingOptions("detr-compact", str(digits_folder), output=str(folder))),
        validation_of(str(digits_folder), {}),
    )
    content = json.loads((folder / "config.json").read_text())
    del content["learned_from"]
    (folder / "config.json").write_text(json.dumps(content))
    assert epoch_steps_of(folder) is None


@pytest.mark.parametrize(("epochs", "text"), [(None, "–"), (20.0, "20"), (150 / 312, "0.48"), (2.5, "2.5"), (0.0, "0")])
def test_shares_of_epochs_have_two_digits(epochs: float | None, text: str) -> None:
    assert epochs_text(epochs) == text
