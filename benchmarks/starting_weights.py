"""What pretrained weights of a backbone are worth on few pictures: two backbones with them, and one from random numbers, the same minutes.

    python benchmarks/starting_weights.py --data BCCD --weights mobilenet_v2=mobilenet_v2_imagenet.safetensors \
        resnet18-c4=resnet18_imagenet_stem_to_layer3.safetensors

Every run is `light-detr-mobilenetv2` with its own recipe and short sides up to 320, without cropping and with flips in both directions, as long
as the minutes allow. MobileNetV2 and ResNet-18 have frozen norms and cannot learn from random numbers, so the compact backbone, whose norms are
trained, stands for what can be learned without pretrained weights, with its own learning rates. The last weights are evaluated, with intervals by the bootstrap over images. A run whose figures the output folder has is not
done again; plot and table show all that are there.
"""

from __future__ import annotations

import argparse
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import detrkit
from detrkit.allocation import keep_freed_memory
from detrkit.evaluation import detect, evaluate_in_detail
from detrkit.files import write_json
from detrkit.training import train
from detrkit.training.run_folder import RunFolder, read_log

VARIANT, SCRATCH = "light-detr-mobilenetv2", "compact"
SETTINGS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {},
    "resnet18-c4": {"backbone": "resnet18-c4", "levels": 2},  # which ends at stride 16
    SCRATCH: {"backbone": SCRATCH},
}
RATE = 7e-4  # of a backbone that has to learn everything: as of the rest of the model
OPTIONS: dict[str, Any] = {"short_side": 320, "vertical_flip": 0.5, "crop": False, "batch_size": 4}


def run(backbone: str, weights: str | None, folder: Path, options: argparse.Namespace) -> None:
    """Trains once, evaluates the last weights and writes down what came of it."""
    start: dict[str, Any] = {"backbone_weights": weights}
    if weights is None:
        start = {"weights": "none", "backbone_lr": RATE}
    length = {"minutes": options.minutes} if options.steps is None else {"steps": options.steps}
    train(
        VARIANT,
        options.data,
        output=str(folder),
        train_split=options.train_split,
        val_split=options.test_split,
        settings=SETTINGS[backbone],
        seed=options.seed,
        evaluate_every=options.evaluate_every,
        **OPTIONS,
        **length,
        **start,
    )
    test = detrkit.open_dataset(options.data, options.test_split)
    found = detect(detrkit.load(RunFolder(folder).last), test)  # not the best, which would be chosen by these pictures
    evaluation, analysis = evaluate_in_detail(test.to_coco(), found)
    figures, intervals = evaluation.figures, analysis.intervals.figures
    rows = read_log(RunFolder(folder).log)
    steps = [after["step"] - before for before, after in zip([0.0, *(row["step"] for row in rows)], rows, strict=False)]
    seconds = [count * OPTIONS["batch_size"] / row["images_per_second"] for count, row in zip(steps, rows, strict=True)]
    minutes = list(accumulate(each / 60 for each in seconds))
    seen = [(spent, row["AP"]) for spent, row in zip(minutes, rows, strict=True) if "AP" in row]
    write_json(
        folder / "figures.json",
        {
            "backbone": backbone,
            "pretrained": weights is not None,
            "steps": int(rows[-1]["step"]),
            "figures": {name: figures[name] for name in ("AP", "AP50", "AP75")},
            "intervals": {name: [each.low, each.high] for name, each in intervals.items()},
            "minutes": [spent for spent, _ in seen],
            "AP": [ap for _, ap in seen],
        },
    )


def report(folders: list[Path], target: Path) -> None:
    """Prints a line for each run and draws AP against minutes of training."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for folder in folders:
        content = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        start = "ImageNet" if content["pretrained"] else "random numbers"
        parts = [
            f"{name} {content['figures'][name]:.3f} ({low:.3f} to {high:.3f})"
            for name, (low, high) in content["intervals"].items()
        ]
        print(f"{content['backbone']}, {start}: {content['steps']} steps, {', '.join(parts)}")
        name = f"{folder.name}, {start}"
        axes.plot(content["minutes"], content["AP"], label=name)
    axes.set(xlabel="minutes of training", ylabel="AP on the test pictures", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=150)


def main() -> None:
    """Trains what is missing and shows all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of BCCD")
    parser.add_argument("--weights", nargs="+", required=True, metavar="BACKBONE=FILE", help="ImageNet weights")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=4)
    parser.add_argument("--train-split", default="trainval")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--output", type=Path, default=Path("runs/starting_weights"))
    options = parser.parse_args()
    keep_freed_memory()
    files: dict[str, str] = dict(each.split("=", 1) for each in options.weights)
    if unknown := sorted(files.keys() - SETTINGS.keys()):
        parser.error(f"there is no run for the backbone {unknown[0]}: there are {', '.join(SETTINGS)}")
    for backbone, weights in {**files, SCRATCH: None}.items():
        folder = options.output / f"{backbone}-{options.seed}"
        if not (folder / "figures.json").is_file():
            run(backbone, weights, folder, options)
    report(
        sorted(each.parent for each in options.output.glob("*/figures.json")), options.output / "starting_weights.png"
    )


if __name__ == "__main__":
    main()
