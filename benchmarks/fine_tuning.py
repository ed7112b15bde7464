"""What a detector of other classes is worth as a start: five digits learned first, then the other five, with and without what was learned.

    python benchmarks/fine_tuning.py --output runs/fine_tuning

Pictures are those of the built-in digits on which all digits are of the five.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

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


def main() -> None:
    """Trains three times and compares the last two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--first-steps", type=int, default=800)
    parser.add_argument("--pictures", type=int, default=3000, help="drawn; those with other digits are left out")
    parser.add_argument("--side", type=int, default=128, help="of the pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console()
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
            console=console,
        )

    run("first", FIRST, options.first_steps, "none", 1000)
    for name, weights in (("from_random_numbers", "none"), ("from_five_digits", options.output / "first")):
        result = run(name, THEN, options.steps, weights, 1)
        course = ", ".join(f"{row['step']:.0f} {row['AP']:.3f}" for row in read_log(RunFolder(result.folder).log))
        assert result.evaluation is not None
        console.print(f"{name}: {result.evaluation.summary()}\nAP by step: {course}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
