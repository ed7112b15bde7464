"""Several processes that train together, and runs that are killed: what comes of them is what one process without a kill makes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training.forked_runs import at_random, run_legs
from training.small_runs import NOISY, SMALL, check_same_run, rows

from detrkit.data import read_digits

EACH_STEP = {"checkpoint_minutes": 1e-6}
# Nothing is random but the order of the images, and all have one size, so that none is padded.
PLAIN: dict[str, Any] = {
    **SMALL, "variant": "detr-compact", "crop": False, "multi_scale": False, "batch_size": 5, "accumulate": 1, "epochs": 2, "lr": 0.01, "warmup_steps": 60,
    "watch": "convergence",
    "settings": {**SMALL["settings"], "width": 64, "dropout": 0.0},
}  # fmt: skip
KILLED = -signal.SIGKILL


def together(data: Path, output: Path, processes: int, **options: Any) -> dict[str, Any]:
    """A leg of plain gradient descent in some processes."""
    return {
        "train": {**PLAIN, "data": str(data), "output": str(output), **options},
        "processes": processes,
        "sgd": True,
    }


def noisy(data: Path, output: Path, **options: Any) -> dict[str, Any]:
    """The arguments of a run with dropout, noise and an average of its weights, in steps of three images."""
    return {
        **(SMALL | NOISY),
        "ema": 0.9,
        "patience": 50,
        "data": str(data),
        "output": str(output),
        "epochs": 2,
        "batch_size": 3,
        "watch": "convergence",
        **options,
    }


def sparse_data(folder: Path) -> Path:
    """Twelve images of which only two have objects, with masks, so that most parts of batches have none; nothing to evaluate on."""
    dataset = read_digits("train", images=12, size=64)
    content = dataset.to_coco()
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for place, entry in enumerate(content["images"]):
        entry["file_name"] = f"{entry['id']:04d}.png"
        dataset.image(place).save(folder / "train" / entry["file_name"])
    kept = {entry["id"] for entry in content["images"][:2]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    for entry in content["annotations"]:
        left, top, width, height = entry["bbox"]
        right, bottom = left + width, top + height
        entry["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def data_without_objects(digits: Path, folder: Path) -> Path:
    annotations = shutil.copytree(digits, folder) / "annotations" / "instances_train.json"
    annotations.write_text(json.dumps({**json.loads(annotations.read_text()), "annotations": []}))
    return folder


class Runs:
    """All runs of this file but the slow ones, made once: what their processes need to import takes longer than what they do."""

    def __init__(self, digits: Path, folder: Path) -> None:
        sparse, empty = sparse_data(folder / "sparse data"), data_without_objects(digits, folder / "empty data")
        masks = {"variant": "deformable-detr-compact-panoptic", "epochs": 1}
        more: dict[str, Any] = {
            "variant": "deformable-detr-compact-two-stage",
            "supervision": "one-to-many,queries=9,repeats=3",
            "epochs": 1,
        }
        noise = {"variant": "dino-compact", "settings": {**PLAIN["settings"], "denoising": 8}, "epochs": 1}
        cut: dict[str, Any] = {"resume": str(folder / "cut")}
        interrupted = {"resume": str(folder / "interrupted")}
        legs = {
            "one": together(digits, folder / "one", 1),
            "three": together(digits, folder / "three", 3),
            # The second of two processes ends in the fourth step, the second of the second epoch.
            "two, killed": {
                **together(digits, folder / "cut", 2, **EACH_STEP),
                "kill": {"in": "step", "call": 4, "rank": 1},
            },
            "two, resumed": {"train": {**cut, "devices": 1}, "sgd": True},
            "masks, one": together(sparse, folder / "masks one", 1, **masks),
            "masks, two": together(sparse, folder / "masks two", 2, **masks),
            "more, one": together(sparse, folder / "more one", 1, **more),
            "more, two": together(sparse, folder / "more two", 2, **more),
            "noise, two": together(sparse, folder / "noise two", 2, **noise),
            "no objects": together(empty, folder / "no objects", 2),
            "small batch": together(digits, folder / "small batch", 2, batch_size=1),
            "other number": together(digits, folder / "other number", 2, devices=3),
            "whole": {"train": noisy(digits, folder / "whole")},
            "killed in a step": {
                "train": noisy(digits, folder / "interrupted", **EACH_STEP),
                "kill": {"in": "step", "call": 3},
            },
            "killed in an evaluation": {"train": interrupted, "kill": {"in": "evaluation", "call": 1}},
            "killed while writing": {"train": interrupted, "kill": {"in": "checkpoint", "call": 3}},
            "not killed": {"train": interrupted},
            "not finite": {**together(digits, folder / "not finite", 2), "with": ["a broken model"]},
            "no network": {
                **together(digits, folder / "no network", 2, variant="light-detr-mobilenetv2", settings={}),
                "with": ["no network"],
            },
            "minutes": {
                **together(digits, folder / "minutes", 2, epochs=None, minutes=2.1 / 60, warmup_steps=0),
                "with": ["known speed"],
            },
            "fsdp": together(digits, folder / "fsdp", 2, strategy="fsdp"),
            # Killed in its second step, then in the fourth, and each time resumed in another form.
            "fsdp, killed": {
                **together(digits, folder / "fsdp cut", 2, strategy="fsdp", **EACH_STEP),
                "kill": {"in": "step", "call": 2, "rank": 1},
            },
            "fsdp, resumed alone": {
                "train": {"resume": str(folder / "fsdp cut"), "devices": 1, "strategy": "ddp"},
                "sgd": True,
                "kill": {"in": "step", "call": 3},
            },
            "fsdp, resumed": {
                "train": {"resume": str(folder / "fsdp cut"), "strategy": "fsdp"},
                "sgd": True,
                "processes": 2,
            },
            "short": {"train": noisy(digits, folder / "short", epochs=1)},
        }
        # The third file of a run is its first checkpoint; then come those of the first epoch, which is the only one.
        files = [{"in": "after a file", "call": call} for call in (2, 3, 2, 3, 4)]
        killed = {"train": noisy(digits, folder / "short, killed", epochs=1), "kills": files}
        results = run_legs([*legs.values(), killed], folder)
        self.short = [code for ((code, _),) in results[len(legs) :]]
        self.folder = folder
        self.codes = {name: [code for code, _ in leg] for name, leg in zip(legs, results, strict=False)}
        self.said = {name: [text for _, text in leg] for name, leg in zip(legs, results, strict=False)}


@pytest.fixture(scope="module")
def runs(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(digits_folder, tmp_path_factory.mktemp("runs"))


def check_equal(one: Path, several: Path) -> None:
    """Weights, losses and figures are the same to rounding."""
    for name in ("last", "best"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (one, several))
        for key in first:
            torch.testing.assert_close(
                second[key], first[key], rtol=1e-4, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
            )
    for alone, shared in zip(rows(one), rows(several), strict=True):
        assert alone.keys() == shared.keys()
        for key in alone.keys() - {"seconds", "images_per_second"}:
            assert float(shared[key] or -1) == pytest.approx(float(alone[key] or -1), rel=1e-3, abs=1e-3), key


def test_three_processes_learn_what_one_learns(runs: Runs) -> None:
    """From batches of five images, which three processes cannot share evenly; five images are evaluated."""
    assert (runs.codes["one"], runs.codes["three"]) == ([0], [0, 0, 0]), runs.said
    check_equal(runs.folder / "one", runs.folder / "three")
    first, *others = runs.said["three"]
    assert "batches of 5 images, shared by 3 processes" in first
    assert others == ["", ""]
    names = [{path.name for path in (runs.folder / name).iterdir()} for name in ("one", "three")]
    assert names[0] == names[1]
    assert len(list((runs.folder / "three" / "tensorboard").glob("events.*"))) == 1


def test_processes_without_any_object(runs: Runs) -> None:
    """In batches of five of which most parts, and some batches as a whole, have none: boxes, masks and classes."""
    assert (runs.codes["masks, one"], runs.codes["masks, two"]) == ([0], [0, 0]), runs.said
    check_equal(runs.folder / "masks one", runs.folder / "masks two")


def test_one_to_many_queries_of_processes_without_any_object(runs: Runs) -> None:
    """Losses are divided by the repeated objects of all processes."""
    assert (runs.codes["more, one"], runs.codes["more, two"]) == ([0], [0, 0]), runs.said
    check_equal(runs.folder / "more one", runs.folder / "more two")


def test_noised_objects_of_processes_without_any_object(runs: Runs) -> None:
    """Each process draws noise of its own, so there is no single process to compare with."""
    assert runs.codes["noise, two"] == [0, 0], runs.said
    losses = [float(row["loss"]) for row in rows(runs.folder / "noise two")]
    assert all(0 < loss < 1e4 for loss in losses)


def test_a_killed_process_ends_the_run_which_goes_on_with_another_number(runs: Runs) -> None:
    assert runs.codes["two, killed"] == [2, KILLED], runs.said
    assert (
        "One of the 2 processes ended, so training cannot go on: its own message says why; continue, also with another number of processes, "
        f"with: detrkit train --resume {runs.folder / 'cut'}" in runs.said["two, killed"][0]
    )
    assert runs.codes["two, resumed"] == [0], runs.said
    options = json.loads((runs.folder / "cut" / "config.json").read_text())
    assert options["changes"][-1] == {"after_epochs": 1, "from": {"devices": 2}, "to": {"devices": 1}}
    check_equal(runs.folder / "one", runs.folder / "cut")


def test_a_model_that_is_shared_out_learns_what_one_process_learns(runs: Runs) -> None:
    """And goes on in a single process after a kill, from the checkpoint that two of them wrote, and then in two again."""
    names = ("fsdp", "fsdp, killed", "fsdp, resumed alone", "fsdp, resumed")
    assert [runs.codes[name] for name in names] == [[0, 0], [2, KILLED], [KILLED], [0, 0]], runs.said
    check_equal(runs.folder / "one", runs.folder / "fsdp")
    check_equal(runs.folder / "one", runs.folder / "fsdp cut")


def test_a_loss_that_is_not_finite_in_another_process_is_said_with_what_it_left(runs: Runs) -> None:
    assert runs.codes["not finite"] == [2, 2], runs.said
    file = runs.folder / "not finite" / "not_finite_process1.pt"
    remains = f"Not finite first: the weights heads.box_head.layers.2.bias. The batch, the weights and the optimizer's state are in {file}."
    first, other = runs.said["not finite"]
    assert first.splitlines()[-1].startswith("In one of the 2 processes: step 2, ")
    assert first.endswith(remains)
    assert other.startswith("step 2, ")
    assert other.endswith(remains)
    kept = torch.load(file, weights_only=True)
    assert (kept["step"], kept["first"]) == (2, "the weights heads.box_head.layers.2.bias")
    assert kept["weights"]["heads.box_head.layers.2.bias"].isnan().all()
    assert not (runs.folder / "not finite" / "not_finite.pt").exists()


def test_one_process_tries_a_download_and_the_others_hear_of_it(runs: Runs) -> None:
    assert runs.codes["no network"] == [2, 2], runs.said
    assert runs.said["no network"][0].startswith("there is no network")
    assert runs.said["no network"][1] == ""
    assert [path.name for path in runs.folder.glob("tried by *")] == ["tried by 0"]


def test_minutes_give_all_processes_the_same_number_of_steps(runs: Runs) -> None:
    """That of the first one, which finds 0.5 s for a step, and the other one 0.11."""
    assert runs.codes["minutes"] == [0, 0], runs.said
    assert "hold 4 steps (2 epochs): a step takes 0.5 s" in runs.said["minutes"][0]
    assert [row["step"] for row in rows(runs.folder / "minutes")] == ["2.0", "4.0"]
    assert json.loads((runs.folder / "minutes" / "config.json").read_text())["options"]["steps"] == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no objects", "so there is nothing to learn"),
        (
            "small batch",
            "a batch of 1 image cannot be split among 2 processes: give fewer devices, or a new run a larger batch_size",
        ),
        ("other number", "devices is 3, but torchrun started 2 processes on 1 node: leave devices out"),
    ],
)
def test_what_ends_all_processes_is_said_once(runs: Runs, name: str, words: str) -> None:
    assert runs.codes[name] == [2, 2], runs.said
    assert words in runs.said[name][0]
    assert runs.said[name][1] == ""
    assert not (runs.folder / name).exists()


def test_three_kills_change_nothing(runs: Runs) -> None:
    """In the middle of an epoch, in an evaluation, and while a checkpoint is written."""
    names = ("whole", "killed in a step", "killed in an evaluation", "killed while writing", "not killed")
    assert [runs.codes[name] for name in names] == [[0], [KILLED], [KILLED], [KILLED], [0]], runs.said
    check_same_run(runs.folder / "whole", runs.folder / "interrupted")
    # The half of a checkpoint that the last kill left went with the next start.
    assert not [path.name for path in (runs.folder / "interrupted").iterdir() if path.name.startswith(".")]


def test_kills_at_the_end_of_the_first_epoch_change_nothing(runs: Runs) -> None:
    """Before the first checkpoint, when the run begins again in its folder; after it; and between the log and the models."""
    assert (runs.codes["short"], runs.short) == ([0], [KILLED] * 5 + [0]), runs.said
    check_same_run(runs.folder / "short", runs.folder / "short, killed")


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(digits_folder: Path, tmp_path: Path) -> None:
    """Each at most eight steps, evaluations or files after the start, so that the run cannot end before."""
    legs = [
        {"train": noisy(digits_folder, tmp_path / "whole", epochs=42)},
        {
            "train": noisy(digits_folder, tmp_path / "cut", epochs=42, **EACH_STEP),
            "kills": at_random(0, 20),
        },
    ]
    codes = [code for ((code, _),) in run_legs(legs, tmp_path)]
    assert codes[0] == codes[-1] == 0
    assert codes[1:-1] == [KILLED] * 20
    check_same_run(tmp_path / "whole", tmp_path / "cut")
