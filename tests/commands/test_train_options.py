"""`detrkit train` before its work: help, data by place, checks, and the dry run."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands.running import detrkit_command, refusal

from detrkit.commands.train import GROUPS
from detrkit.training.options import _FROM_RECIPE
from detrkit.training.training_options import UNLESS_GIVEN, TrainingOptions

SMALL = ("--steps", 2, "--batch-size", 4, "--short-side", 64, "--settings", "width=32", "--flip", 0)


def test_every_option_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted([*TrainingOptions.__dataclass_fields__, "config", "resume", "dry_run"])


def test_what_the_recipe_fills_in_is_called_so() -> None:
    assert {name for name, words in UNLESS_GIVEN.items() if words == "the recipe's"} == {*_FROM_RECIPE, "batch_size"}


def test_the_help_has_groups_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    shown = detrkit_command("train", "--help", folder=tmp_path).stdout
    assert detrkit_command("help", "train", folder=tmp_path).stdout == shown
    titles = [line.split()[1] for line in shown.splitlines() if line.startswith("╭")]
    assert titles == ["Parameters", *(title.split()[0] for title in GROUPS)]  # first what is given by its place
    lines = {
        name: next(line for line in shown.splitlines() if f"--{name} " in line)
        for name in ("lr", "steps", "flip", "seed", "augmentation", "loggers")
    }
    assert "[default: the recipe's]" in lines["lr"]
    assert "[default: as many as the epochs have]" in lines["steps"]
    assert "[default: the policy's]" in lines["flip"]
    assert "[default: 0]" in lines["seed"]
    assert "--augmentation CHOICE" in lines["augmentation"]
    assert "[choices: detr, sizes, light, strong, none] [default: the recipe's]" in " ".join(
        shown.replace("│", "").split()
    )
    assert "--empty-loggers" not in shown


def test_help_knows_the_commands(tmp_path: Path) -> None:
    assert "predict" in detrkit_command("help", folder=tmp_path).stdout
    assert "there is no command 'trian': did you mean 'train'?" in refusal("help", "trian", folder=tmp_path)


def test_data_may_be_given_by_place(tmp_path: Path) -> None:
    by_place = refusal("train", "detr-compact", "nowhere", folder=tmp_path)
    assert by_place == refusal("train", "detr-compact", "--data", "nowhere", folder=tmp_path)
    assert "nowhere does not exist" in by_place


def test_a_dry_run_says_what_a_run_would_take_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = detrkit_command("train", "detr-compact", data, *SMALL, "--dry-run", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    for words in (
        "  lr = 0.0006",
        "'width': 32",
        "  epochs = 1 (as many as the steps take)",
        "  steps = 2",
        "1 epoch, 2 steps with batches of 4 images",
        "GB",
        "nothing was written",
    ):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--short-side", 8), "16 ≤ short side"),
        (("--backbone-weights", "gone.pth"), "gone.pth"),
        (("--weights", "gone.pth"), "gone.pth"),
        (("--queries-from", "gone.pth"), "gone.pth"),
        (("--output", "before"), "holds models of an earlier run"),
        (("--loggers", "wandb,neptune"), "there is no logger 'neptune' for --loggers: choose one of 'wandb', 'mlflow'"),
    ],
    ids=str,
)
def test_options_are_checked_before_data_are_read(options: tuple[object, ...], words: str, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "best.safetensors").write_text("of an earlier run")
    (tmp_path / "data").mkdir()  # cannot be read as a data set
    assert words in refusal("train", "detr-compact", "data", *options, folder=tmp_path)
    assert words in refusal("train", "detr-compact", "data", *options, "--dry-run", folder=tmp_path)


def test_resume_names_options_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    sentence = refusal("train", "--resume", "run", "--batch-size", 3, folder=tmp_path)
    assert sentence.endswith(
        "of which only --data, --epochs, --steps, --patience, --device, --devices, --nodes, --strategy and --workers may be given anew: leave out --batch-size"
    )
    assert "leave out --resume, or --dry-run" in refusal("train", "--resume", "run", "--dry-run", folder=tmp_path)
