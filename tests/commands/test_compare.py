"""`detrkit compare` as a user runs it: runs in processes of their own, tables, JSON, mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from commands.running import Finished, detrkit_command, refusal

from detrkit.commands.train import GROUPS

SMALL = ("--steps", 2, "--batch-size", 4, "--short-side", 64, "--long-side", 64, "--device", "cpu")
SETTINGS = [
    f"--settings.{name}" for name in ("queries=6", "width=32", "hidden=32", "encoder-layers=1", "decoder-layers=1")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def compared(folder: Path, digits_folder: Path, checkpoint: Path) -> Finished:
    """A comparison of a variant with a checkpoint, each in a process of its own."""
    line = ("compare", "detr-compact", checkpoint, "--data", digits_folder, "--output", "out", *SMALL, *SETTINGS)
    return detrkit_command(*line, "--json", folder=folder)


def test_json_is_all_that_is_printed(compared: Finished, folder: Path) -> None:
    assert compared.returncode == 0, compared.stderr
    content = json.loads(compared.stdout)
    assert content == json.loads((folder / "out" / "comparison.json").read_text())
    variant, model = content["contestants"]
    assert (variant["variant"], model["variant"]) == ("detr-compact", None)
    assert variant["steps"]["mean"] == 2
    log = (folder / "out" / "detr-compact-seed0" / "log.csv").read_text()
    assert len(log.splitlines()) == 2
    for each in (variant, model):  # of processes that have loaded PyTorch
        assert 0.1 < each["memory_gb"]["mean"] < 20
    assert "Run 1 of 2, detr-compact-seed0:" in compared.stderr
    assert "Report: out/report.html" in compared.stderr
    assert (folder / "out" / "report.html").stat().st_size < 5_000_000


def test_the_same_command_again_prints_tables_and_trains_nothing(
    compared: Finished, folder: Path, digits_folder: Path, checkpoint: Path
) -> None:
    assert compared.returncode == 0
    outcomes = [
        folder / "out" / name / "outcome.json"
        for name in ("detr-compact-seed0", f"{checkpoint.parent.name}-checkpoint")
    ]
    before = [each.stat().st_mtime_ns for each in outcomes]
    line = ("compare", "detr-compact", checkpoint, "--data", digits_folder, "--output", "out", *SMALL, *SETTINGS)
    again = detrkit_command(*line, folder=folder)
    assert again.returncode == 0, again.stderr
    assert [each.stat().st_mtime_ns for each in outcomes] == before
    assert again.stdout.count("finished before.") == 2
    for words in ("AP by class", "images/s", "cannot be ranked (AP +", "Figures: out/comparison.json"):
        assert words in again.stdout


def test_a_failed_run_gives_exit_code_1(
    compared: Finished, folder: Path, digits_folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        def __init__(self, *_: object, **__: object) -> None: ...

        def wait(self) -> int:
            return -9

    assert compared.returncode == 0
    monkeypatch.setattr(subprocess, "Popen", Killed)
    line = ("conditional-detr-compact", checkpoint, "--data", digits_folder, "--output", "out", *SMALL, *SETTINGS)
    result = detrkit_command("compare", *line, folder=folder)
    assert result.returncode == 1, result.stderr
    assert "Failed: conditional-detr-compact-seed0: its process was ended by SIGKILL, mostly for" in result.stdout
    assert "Comparison on digits0 val" in result.stdout  # the checkpoint stands in the tables


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("detr-compact detr-compct --steps 2", "there is no variant 'detr-compct': did you mean 'detr-compact'?"),
        ("detr-compact gone/best.safetensors --steps 2", "gone/best.safetensors"),
        ("detr-compact --steps 2", "a comparison needs two or more"),
        ("detr-compact dino-compact", "and none is given: give one of the three"),
        ("detr-compact dino-compact --steps 2 --batch-size 0", "--batch-size must be above 0, not 0"),
        ("detr-compact dino-compact --steps 2 --imgsz 64", "unknown option --imgsz: here it is --short-side and --long-side"),
        ("detr-compact dino-compact --steps 2 --settings.queries many", "--settings.queries must be of type int, not 'many'"),
        ("detr-compact dino-compact --steps 2 --seeds 0", "seeds must be at least 1, not 0"),
        ("detr-compact dino-compact --steps 2 --rates offsets", "--rates needs names of parts with factors"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(line: str, words: str, digits_folder: Path, tmp_path: Path) -> None:
    assert words in refusal("compare", *line.split(), "--data", digits_folder, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_variants_learn_in_several_processes(digits_folder: Path, tmp_path: Path) -> None:
    line = ("compare", "detr-compact", "conditional-detr-compact", "--data", digits_folder, "--devices", 2)
    settings = [each.replace("decoder-layers=1", "decoder-layers=2") for each in SETTINGS]
    result = detrkit_command(*line, "--output", "out", *SMALL, *settings, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [each["steps"]["mean"] for each in content["contestants"]] == [2, 2]
    stored = json.loads((tmp_path / "out" / "detr-compact-seed0" / "config.json").read_text())
    assert stored["options"]["devices"] == 2


def test_a_comparison_needs_data(tmp_path: Path) -> None:
    line = ("compare", "detr-compact", "dino-compact", "--steps", 2)
    assert "needs --data" in refusal(*line, folder=tmp_path)
    assert "nowhere does not exist" in refusal(*line, "--data", "nowhere", folder=tmp_path)


def test_the_help_has_the_options_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    shown = detrkit_command("compare", "--help", folder=tmp_path).stdout
    shown = " ".join(shown.replace("│", " ").split())  # lines may be broken all the same
    left_out = ("variant", "data", "output", "seed", "config", "resume", "dry_run")
    options = [name for names in GROUPS.values() for name in names if name not in left_out]
    assert [name for name in options if f"--{name.replace('_', '-')}" not in shown] == []
    assert not any(f"--{name.replace('_', '-')} " in shown for name in ("seed", "config", "resume", "dry_run"))
    assert "passes over the training images. [default" not in shown
    assert "folder of the comparison. [default: a new folder under runs/]" in shown
