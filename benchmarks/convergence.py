"""How fast detectors learn: papers beside each other on small data. What each paper changed is the matter of `detrkit study`.

    python benchmarks/convergence.py --study deformable     # Deformable DETR beside DETR, on the built-in digits
    python benchmarks/convergence.py --study small_objects --data BCCD --backbone-weights mobilenet_v2_imagenet.safetensors
    python benchmarks/convergence.py --study queries        # every paper's way to tell a query where to look, same backbone
    python benchmarks/convergence.py --study denoising      # what noised objects add to both DAB papers

Every detector of a study gets the same backbone, images, batches, epochs and seeds. One figure a seed, all of them shown. A run that the
output folder has with the same options, in this study or another, is not done again, nor one whose figures lie in `benchmarks/figures`, unless
with --fresh. Processors round differently, and training carries that far: another computer gives other figures for the same seed. Seconds are those of training, without evaluation: each
epoch counts as much as the detector's quickest one, since other work on the machine slows some of them down.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detrkit.files import write_json, write_text
from detrkit.studies.setting import ON_DIGITS

KEPT = Path(__file__).with_name("figures")  # of long runs, since the documents' tables and plots are made of them


@dataclass(frozen=True)
class Study:
    """One data set and the detectors that are compared on it.

    Attributes:
        title: of the plot.
        data: name or folder of the data set; None takes it from the command line.
        epochs: passes over the training images, the same for all.
        options: of every run.
        detectors: name in the plot to variant and its own options.
        watched: class whose AP is told by itself; None takes none.
    """

    title: str
    data: str | None
    epochs: int
    options: dict[str, Any]
    detectors: dict[str, tuple[str, dict[str, Any]]]
    watched: str | None


DEFORMABLE = Study(
    title="Built-in digits, 128 × 128, compact backbone from nothing",
    data="digits",
    epochs=5,
    options=ON_DIGITS,
    detectors={  # each with the catalog's settings for small images, DETR's with more steps of tuning behind them
        "DETR": ("detr-compact", {}),
        "Deformable DETR": ("deformable-detr-compact", {}),
        "Deformable DETR, two stages": ("deformable-detr-compact-two-stage", {}),
    },
    watched=None,
)
# One backbone, of stride 8: a digit covers a few of its cells. The deformable detectors also get stride 4, since they are made for several
# levels. Classes weigh as much as boxes, or these detectors find digits long before they can tell them apart.
_SMALL = {**ON_DIGITS, "short_side": 64, "long_side": 64, "lr": 1e-3, "backbone_lr": 1e-3}
_SAME: dict[str, Any] = {
    "backbone": "compact-c3",
    "queries": 30,
    "width": 128,
    "hidden": 256,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "dropout": 0.0,
    "class_weight": 5.0,
}
_DENSE: dict[str, Any] = {"settings": {**_SAME, "attention_heads": 4}}
_SPARSE: dict[str, Any] = {"settings": {**_SAME, "levels": 2}}
QUERIES = Study(
    title="Built-in digits, 64 × 64, three decoder layers, the same backbone from nothing",
    data="digits",
    epochs=6,
    options=_SMALL,
    detectors={
        "DETR": ("detr-compact", _DENSE),
        "Conditional DETR": ("conditional-detr-compact", _DENSE),
        "SMCA-DETR": ("smca-detr-compact", _DENSE),
        "DAB-DETR": ("dab-detr-compact", _DENSE),
        "Anchor DETR": ("anchor-detr-compact", _DENSE),
        "SAM-DETR": ("sam-detr-compact", _DENSE),
        "SAM-DETR without cross-attention": ("sam-detr-compact-without-cross-attention", _DENSE),
        "Deformable DETR": ("deformable-detr-compact", _SPARSE),
        "DAB-Deformable-DETR": ("dab-deformable-detr-compact", _SPARSE),
    },
    watched=None,
)


DENOISING = Study(
    title="With and without noised objects, built-in digits, 64 × 64",
    data="digits",
    epochs=2,  # the paper's claim is about the beginning
    options=_SMALL,
    detectors={
        "DAB-DETR": ("dab-detr-compact", _DENSE),
        "DN-DETR": ("dn-dab-detr-compact", _DENSE),
        "DAB-Deformable-DETR": ("dab-deformable-detr-compact", _SPARSE),
        "DN-DAB-Deformable-DETR": ("dn-dab-deformable-detr-compact", _SPARSE),
    },
    watched=None,
)
_MIDDLE = {"width": 128, "hidden": 512, "encoder_layers": 2, "decoder_layers": 3, "queries": 60, "dropout": 0.0}
SMALL_OBJECTS = Study(
    title="BCCD, short side 240, MobileNetV2 from ImageNet",
    data=None,
    epochs=6,
    options={
        "train_split": "trainval",
        "val_split": "test",
        "short_side": 240,
        "long_side": 320,
        "batch_size": 4,
        "crop": False,
        "multi_scale": False,
        "vertical_flip": 0.5,
        "warmup_steps": 50,
        "schedule": "cosine",
    },
    detectors={
        "DETR": ("detr-mobilenetv2", {"settings": _MIDDLE, "lr": 2e-4, "backbone_lr": 2e-4, "gradient_clip": 1.0}),
        "Deformable DETR": (
            "deformable-detr-mobilenetv2",
            {"settings": _MIDDLE, "lr": 5e-4, "backbone_lr": 2e-4, "gradient_clip": 1.0},
        ),
        "Deformable DETR, two stages": (
            "deformable-detr-mobilenetv2-two-stage",
            {"settings": _MIDDLE, "lr": 5e-4, "backbone_lr": 2e-4, "gradient_clip": 1.0},
        ),
    },
    watched="Platelets",
)
STUDIES = {
    "deformable": DEFORMABLE,
    "small_objects": SMALL_OBJECTS,
    "queries": QUERIES,
    "denoising": DENOISING,
}


def main() -> None:
    """Trains what is missing, then prints a table and draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=list(STUDIES), default="deformable")
    parser.add_argument("--data", help="folder of a study's data set, where it is not the built-in one")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="detectors of the study to train; the report then shows these alone"
    )
    parser.add_argument("--backbone-weights", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/convergence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--fresh", action="store_true", help="train all, whatever was trained before")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    study = chosen_study(options, parser)
    epochs = options.epochs or study.epochs
    if options.run:
        run_one(study, epochs, options)
        return
    folder = options.output / f"{options.study}-{epochs}-epochs"
    pairs = [(name, seed) for seed in options.seeds for name in study.detectors]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: start(study, folder, epochs, pair[0], pair[1], options), pairs))
    report(study, folder, options.seeds, epochs, suffix="-part" if options.only else "")


def chosen_study(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Study:
    """The study, with the detectors that were asked for; sets `options.data`."""
    study = STUDIES[options.study]
    if study.data is not None and options.data not in (None, study.data):
        parser.error(
            f"the study {options.study} is of the built-in {study.data}: leave --data out or choose small_objects"
        )
    options.data = study.data or options.data
    if options.data is None:
        parser.error(f"the study {options.study} needs --data FOLDER")
    unknown = set(options.only or []) - set(study.detectors)
    if unknown:
        parser.error(f"the study {options.study} has no {sorted(unknown)[0]!r}: it has {', '.join(study.detectors)}")
    if options.only:
        return replace(study, detectors={name: study.detectors[name] for name in options.only})
    return study


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / f"{name.lower().replace(',', '').replace(' ', '-')}-{seed}"


def training_options(study: Study, name: str, epochs: int, options: argparse.Namespace) -> dict[str, Any]:
    """All that a run depends on but for its seed."""
    variant, own = study.detectors[name]
    weights = {} if options.backbone_weights is None else {"backbone_weights": str(options.backbone_weights)}
    return {"variant": variant, "data": options.data, "epochs": epochs, **study.options, **own, **weights}


def figures_of(folder: Path, target: Path, seed: int) -> list[Path]:
    """Where figures of runs with this seed may lie: those of the run itself first."""
    first = [target / "figures.json", KEPT / folder.name / f"{target.name}.json"]
    return [*filter(Path.is_file, first), *folder.parent.glob(f"*/*-{seed}/figures.json")]


def start(study: Study, folder: Path, epochs: int, name: str, seed: int, options: argparse.Namespace) -> None:
    """One run in a process of its own, unless it is there."""
    target = run_folder(folder, name, seed)
    wanted = json.loads(json.dumps(training_options(study, name, epochs, options)))
    for figures in [] if options.fresh else figures_of(folder, target, seed):
        if json.loads(figures.read_text())["options"] == wanted:
            if figures.parent != target:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(figures, target / "figures.json")
            return
    command = [sys.executable, __file__, "--study", options.study, "--data", options.data, "--output", str(target)]
    command += ["--epochs", str(epochs), "--run", name, "--seeds", str(seed)]
    if options.backbone_weights:
        command += ["--backbone-weights", str(options.backbone_weights)]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # an earlier run that did not end
    with (target.parent / f"{target.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    print(f"{name}, seed {seed}: done", flush=True)


def run_one(study: Study, epochs: int, options: argparse.Namespace) -> None:
    """Trains one detector with one seed."""
    import torch

    from detrkit import evaluate, load, open_dataset
    from detrkit.allocation import keep_freed_memory
    from detrkit.training import train

    keep_freed_memory()
    torch.set_num_threads(1)  # two runs at once on two cores do more than one run on both
    chosen = training_options(study, options.run, epochs, options)
    result = train(**chosen, output=str(options.output), seed=options.seeds[0])
    rows = list(csv.DictReader((result.folder / "log.csv").open()))
    evaluation = evaluate(
        load(result.folder / "last.safetensors"),
        open_dataset(options.data, study.options.get("val_split", "val")),
    )
    write_json(
        options.output / "figures.json",
        {
            "options": chosen,
            "AP by epoch": [float(row["AP"]) for row in rows],
            "AP50 by epoch": [float(row["AP50"]) for row in rows],
            "seconds by epoch": seconds_by_epoch(rows, study.options["batch_size"]),
            "figures": evaluation.figures,
            "classes": {entry.name: {"AP": entry.ap, "AP50": entry.ap50} for entry in evaluation.classes},
        },
    )


def seconds_by_epoch(rows: Sequence[dict[str, str]], batch_size: int) -> list[float]:
    """Seconds of training up to the end of each epoch."""
    steps = [0.0, *(float(row["step"]) for row in rows)]
    images = [(after - before) * batch_size for before, after in itertools.pairwise(steps)]
    return list(itertools.accumulate(n / float(row["images_per_second"]) for n, row in zip(images, rows, strict=True)))


def report(study: Study, folder: Path, seeds: Sequence[int], epochs: int, *, suffix: str = "") -> None:
    """Prints the last epoch's figures and draws AP against epochs."""
    found = {
        name: [json.loads((run_folder(folder, name, seed) / "figures.json").read_text()) for seed in seeds]
        for name in study.detectors
    }
    for runs in found.values():
        quickest = min(after - before for run in runs for before, after in _epochs(run["seconds by epoch"]))
        for run in runs:
            run["seconds by epoch"] = [quickest * (place + 1) for place in range(len(run["AP by epoch"]))]
    lines = [f"{study.title}; {epochs} epochs, seeds {', '.join(map(str, seeds))}: mean (each seed)"]
    for name, runs in found.items():
        columns = {"AP": [run["figures"]["AP"] for run in runs], "AP50": [run["figures"]["AP50"] for run in runs]}
        columns["AP small"] = [run["figures"]["AP_small"] for run in runs]
        columns["seconds"] = [runs[0]["seconds by epoch"][-1]]
        if study.watched:
            columns[f"AP {study.watched}"] = [run["classes"][study.watched]["AP"] for run in runs]
        lines.append(name.ljust(52) + "   ".join(f"{key} {_shown(values)}" for key, values in columns.items()))
    print("\n".join(lines))
    write_text(folder / f"figures{suffix}.txt", "\n".join(lines) + "\n")
    draw(study, found, folder / f"convergence{suffix}.png")


def _epochs(seconds: Sequence[float]) -> itertools.pairwise[tuple[float, float]]:
    """Beginning and end of every epoch."""
    return itertools.pairwise([0.0, *seconds])


def _shown(values: Sequence[float]) -> str:
    digits = 0 if max(values) > 1 else 3
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def draw(study: Study, found: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """AP against epochs and against seconds: one colour a detector, one thin line a seed, the mean thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    by_epoch, by_seconds = figure.subplots(1, 2, sharey=True)
    for place, (name, runs) in enumerate(found.items()):
        curves = [run["AP by epoch"] for run in runs]
        seconds = [run["seconds by epoch"] for run in runs]
        epochs = [list(range(1, len(curve) + 1)) for curve in curves]
        for axes, places in ((by_epoch, epochs), (by_seconds, seconds)):
            for along, curve in zip(places, curves, strict=True):
                axes.plot(along, curve, color=f"C{place}", alpha=0.35, linewidth=1)
            means = [[statistics.mean(values) for values in zip(*lines, strict=True)] for lines in (places, curves)]
            axes.plot(*means, color=f"C{place}", label=name)
    by_epoch.set(xlabel="epoch", ylabel="AP", ylim=(0, None))
    by_seconds.set(xlabel="seconds of training, one thread")
    for axes in (by_epoch, by_seconds):
        axes.grid(alpha=0.3)
    handles, names = by_epoch.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.suptitle(study.title)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
