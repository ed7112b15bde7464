"""What a detector of other classes is worth as a start: five digits learned first, then the other five, with and without what was learned.

    python benchmarks/fine_tuning.py --output runs/fine_tuning
    python benchmarks/fine_tuning.py --photos --first-data coco --data signs --val-split valid --backbone-weights mobilenet_v2_imagenet.safetensors

Pictures are those of the built-in digits on which all digits are of the five. With `--photos` the same is done with two data sets of photos and
`light-detr-mobilenetv2`: the detector of the first set's classes, or ImageNet weights of its backbone alone, is the start on the second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from detrkit.data import DetectionDataset, read_digits
from detrkit.training import TrainingResult, train
from detrkit.training.run_folder import RunFolder, read_log

FIRST, THEN = ("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9")
SHARES = {"train": 1.0, "val": 0.2}


def write_pictures(digits: DetectionDataset, names: Sequence[str], folder: Path, split: str) -> None:
    """Writes the pictures on which there are these digits only, in COCO's layout and with these classes."""
    wanted = [category.index for category in digits.categories if category.name in names]
    rows = zip(digits.offsets[:-1], digits.offsets[1:], strict=True)
    places = [place for place, (start, end) in enumerate(rows) if np.isin(digits.labels[start:end], wanted).all()]
    content = digits.subset(places).to_coco()
    content["categories"] = [entry for entry in content["categories"] if entry["name"] in names]
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for place, entry in zip(places, content["images"], strict=True):
        entry["file_name"] = f"{entry['id']:04d}.png"
        digits.image(place).save(folder / split / entry["file_name"])
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def show(name: str, result: TrainingResult) -> None:
    """Figures of a run and its AP by step."""
    course = ", ".join(
        f"{row['step']:.0f} {row['AP']:.3f}" for row in read_log(RunFolder(result.folder).log) if "AP" in row
    )
    assert result.evaluation is not None
    text = f"{name}: {result.evaluation.summary()}\nAP by step: {course}"
    Console().print(text, highlight=False, soft_wrap=True)


def on_digits(options: argparse.Namespace) -> None:
    """Five digits, then the other five."""
    data: dict[tuple[str, ...], Path] = {
        names: options.output / f"digits_{names[0]}_to_{names[-1]}" for names in (FIRST, THEN)
    }
    for split, share in SHARES.items():
        digits = read_digits(split, images=round(share * options.pictures), size=options.side)
        for names, folder in data.items():
            write_pictures(digits, names, folder, split)

    def run(name: str, digits: tuple[str, ...], steps: int, weights: Path | str, evaluate_every: int) -> TrainingResult:
        return train(
            "light-detr-compact",
            data[digits],
            output=options.output / name,
            weights=weights,
            steps=steps,
            seed=options.seed,
            short_side=options.side,
            long_side=options.side,
            flip=0.0,
            crop=False,
            multi_scale=False,
            evaluate_every=evaluate_every,
        )

    run("first", FIRST, options.first_steps, "none", 1000)
    for name, weights in (("from_random_numbers", "none"), ("from_five_digits", options.output / "first")):
        show(name, run(name, THEN, options.steps, weights, 1))


def on_photos(options: argparse.Namespace) -> None:
    """A detector of one set of photos as the start on another."""

    def run(name: str, data: str, steps: int, evaluate_every: int, **start: Any) -> TrainingResult:
        return train(
            "light-detr-mobilenetv2",
            data,
            output=options.output / name,
            val_split=options.val_split if data == options.data else "val",
            steps=steps,
            seed=options.seed,
            evaluate_every=evaluate_every,
            short_side=options.short_side,
            **start,
        )

    backbone = {"backbone_weights": options.backbone_weights}
    run("first", options.first_data, options.first_steps, 1000, **backbone)
    for name, start in (("from_backbone", backbone), ("from_first", {"weights": options.output / "first"})):
        show(name, run(name, options.data, options.steps, 2, **start))


def main() -> None:
    """Trains three times and compares the last two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--first-steps", type=int, default=800)
    parser.add_argument("--pictures", type=int, default=3000, help="drawn; those with other digits are left out")
    parser.add_argument("--side", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photos", action="store_true", help="two data sets instead of digits")
    parser.add_argument("--first-data", help="data set that is learned first")
    parser.add_argument("--data", help="data set that is learned then")
    parser.add_argument("--val-split", default="val", help="of the second data set")
    parser.add_argument("--short-side", type=int, default=320, help="of the photos")
    parser.add_argument("--backbone-weights", help="ImageNet weights of MobileNetV2")
    options = parser.parse_args()
    if not options.photos:
        on_digits(options)
        return
    missing = [name for name in ("first_data", "data", "backbone_weights") if getattr(options, name) is None]
    if missing:
        parser.error(f"--photos needs --{missing[0].replace('_', '-')}")
    on_photos(options)


if __name__ == "__main__":
    main()
