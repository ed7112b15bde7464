"""How fast detectors learn: what papers claim, measured on small data.

    python benchmarks/convergence.py --study deformable     # Deformable DETR beside DETR, on the built-in digits
    python benchmarks/convergence.py --study small_objects --data BCCD --backbone-weights mobilenet_v2_imagenet.safetensors
    python benchmarks/convergence.py --study queries        # every paper's way to tell a query where to look, same backbone
    python benchmarks/convergence.py --study anchors        # DAB-DETR with one thing changed at a time
    python benchmarks/convergence.py --study supervision    # what denoising, one-to-many matching, groups and DINO bring
    python benchmarks/convergence.py --study denoising      # what noised objects add to both DAB papers
    python benchmarks/convergence.py --study decoders       # DETR with and without its encoder, and TSP, which has no decoder

The last two questions are also put to BCCD, in equal minutes: `--study supervision_on_cells` and `--study decoders_on_cells`, both with
`--data BCCD --backbone-weights mobilenet_v2_imagenet.safetensors --seeds 0`.

Every detector of a study gets the same backbone, images, batches, epochs (or minutes) and seeds. One figure a seed, all of them shown. A run that the
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

KEPT = Path(__file__).with_name("figures")  # of long runs, since the documents' tables and plots are made of them
WATCHED = {
    "repeated_share": "repeated",
    "matching_instability": "changed matches",
    "attention_sparsity": "sparsity",
}  # columns of the log with --watch, and what they are called in tables, which have the last epoch's


@dataclass(frozen=True)
class Study:
    """One data set and the detectors that are compared on it.

    Attributes:
        title: of the plot.
        data: name or folder of the data set; None takes it from the command line.
        epochs: passes over the training images, the same for all; 0 where they have the same minutes.
        options: of every run.
        detectors: name in the plot to variant and its own options.
        watched: class whose AP is told by itself; None takes none.
        minutes: of training, with the steps that the first ones show to fit.
    """

    title: str
    data: str | None
    epochs: int
    options: dict[str, Any]
    detectors: dict[str, tuple[str, dict[str, Any]]]
    watched: str | None
    minutes: float | None = None


_ON_DIGITS = {
    "flip": 0.0,
    "crop": False,
    "multi_scale": False,
    "batch_size": 16,
    "warmup_steps": 50,
    "schedule": "cosine",
}
DEFORMABLE = Study(
    title="Built-in digits, 128 × 128, compact backbone from nothing",
    data="digits",
    epochs=5,
    options=_ON_DIGITS,
    detectors={  # each with the catalog's settings for small images, DETR's with more steps of tuning behind them
        "DETR": ("detr-compact", {}),
        "Deformable DETR": ("deformable-detr-compact", {}),
        "Deformable DETR, two stages": ("deformable-detr-compact-two-stage", {}),
    },
    watched=None,
)
# One backbone, of stride 8: a digit covers a few of its cells. The deformable detectors also get stride 4, since they are made for several
# levels. Classes weigh as much as boxes, or these detectors find digits long before they can tell them apart.
_SMALL = {**_ON_DIGITS, "short_side": 64, "long_side": 64, "lr": 1e-3, "backbone_lr": 1e-3}
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


def _changed(**settings: Any) -> tuple[str, dict[str, Any]]:
    return "dab-detr-compact", {"settings": {**_DENSE["settings"], **settings}}


ANCHORS = Study(
    title="DAB-DETR with one thing changed, built-in digits, 64 × 64",
    data="digits",
    epochs=6,
    options=_SMALL,
    detectors={
        "as it is": _changed(),
        "content is learned and scales the first layer, too": _changed(learned_content=True),
        "references pass gradients": _changed(detach_references=False),
        "a box head for each layer": _changed(box_head_per_layer=True),
        "no modulation by width and height": _changed(modulate=False),
        "temperature 10,000": _changed(temperature=10000.0),
        "moves come from states before the norm": _changed(normed_references=False),
        "sides have no least size": _changed(least_side=0.0),
    },
    watched=None,
)
_TWO_STAGES = "deformable-detr-compact-two-stage"
SUPERVISION = Study(
    title="More supervision, built-in digits, 64 × 64, the same backbone from nothing",
    data="digits",
    epochs=6,
    options={**_SMALL, "watch": "convergence"},
    detectors={
        "Deformable DETR, two stages": (_TWO_STAGES, _SPARSE),
        "with denoising": (_TWO_STAGES, {**_SPARSE, "supervision": "denoising,copies=60"}),
        "with one-to-many queries": (_TWO_STAGES, {**_SPARSE, "supervision": "one-to-many"}),
        "with three more groups": (_TWO_STAGES, {**_SPARSE, "supervision": "groups,count=4"}),
        "DINO": ("dino-compact", {"settings": {**_SPARSE["settings"], "class_cost": 5.0, "denoising": 60}}),
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
# TSP takes all levels of the same backbone, and gives its encoder the layers that the others have in encoder and decoder.
_NO_DECODER: dict[str, Any] = {
    "settings": {
        "backbone": "compact",
        "queries": 30,
        "width": 128,
        "hidden": 256,
        "attention_heads": 4,
        "encoder_layers": 4,
    }
}
DECODERS = Study(
    title="Decoder or none, built-in digits, 64 × 64, the same backbone from nothing",
    data="digits",
    epochs=6,
    options={**_SMALL, "watch": "convergence"},
    detectors={
        "DETR": ("detr-compact", _DENSE),
        "DETR without encoder": ("detr-compact", {"settings": {**_DENSE["settings"], "encoder_layers": 0}}),
        "TSP-FCOS": ("tsp-fcos-compact", _NO_DECODER),
        "TSP-RCNN": ("tsp-rcnn-compact", _NO_DECODER),
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
_ON_CELLS = {**SMALL_OBJECTS.options, "watch": "convergence"}
_CELLS = {"settings": _MIDDLE, "lr": 5e-4, "backbone_lr": 2e-4, "gradient_clip": 1.0}
_CELLS_TWO_STAGES = "deformable-detr-mobilenetv2-two-stage"
SUPERVISION_ON_CELLS = Study(
    title="More supervision, BCCD, short side 240, MobileNetV2 from ImageNet",
    data=None,
    epochs=0,
    minutes=7,
    options=_ON_CELLS,
    detectors={
        "Deformable DETR, two stages": (_CELLS_TWO_STAGES, _CELLS),
        "with denoising": (_CELLS_TWO_STAGES, {**_CELLS, "supervision": "denoising,copies=60"}),
        "with one-to-many queries": (_CELLS_TWO_STAGES, {**_CELLS, "supervision": "one-to-many"}),
        "with three more groups": (_CELLS_TWO_STAGES, {**_CELLS, "supervision": "groups,count=4"}),
        "DINO": ("dino-mobilenetv2-4scale", {**_CELLS, "settings": {**_MIDDLE, "denoising": 60}}),
    },
    watched="Platelets",
)
_CELLS_DENSE = {**_CELLS, "lr": 2e-4}  # more is too much for DETR's decoder
_CELLS_NO_DECODER = {"settings": {"width": 128, "hidden": 512, "encoder_layers": 5}, "lr": 2e-4, "backbone_lr": 2e-4}
DECODERS_ON_CELLS = Study(
    title="Decoder or none, BCCD, short side 240, MobileNetV2 from ImageNet",
    data=None,
    epochs=0,
    minutes=7,
    options=_ON_CELLS,
    detectors={
        "DETR": ("detr-mobilenetv2", _CELLS_DENSE),
        "DETR without encoder": ("detr-mobilenetv2", {**_CELLS_DENSE, "settings": {**_MIDDLE, "encoder_layers": 0}}),
        "TSP-FCOS": ("tsp-fcos-mobilenetv2", _CELLS_NO_DECODER),
        "TSP-RCNN": ("tsp-rcnn-mobilenetv2", _CELLS_NO_DECODER),
    },
    watched="Platelets",
)
STUDIES = {
    "deformable": DEFORMABLE,
    "small_objects": SMALL_OBJECTS,
    "queries": QUERIES,
    "anchors": ANCHORS,
    "supervision": SUPERVISION,
    "denoising": DENOISING,
    "decoders": DECODERS,
    "supervision_on_cells": SUPERVISION_ON_CELLS,
    "decoders_on_cells": DECODERS_ON_CELLS,
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
    parser.add_argument("--minutes", type=float, help="for a study of equal minutes")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--fresh", action="store_true", help="train all, whatever was trained before")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    study = chosen_study(options, parser)
    length = length_of(study, options)
    if options.run:
        run_one(study, length, options)
        return
    folder = options.output / "-".join([options.study, *(f"{value:g}-{unit}" for unit, value in length.items())])
    pairs = [(name, seed) for seed in options.seeds for name in study.detectors]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: start(study, folder, length, pair[0], pair[1], options), pairs))
    report(study, folder, options.seeds, length, suffix="-part" if options.only else "")


def chosen_study(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Study:
    """The study, with the detectors that were asked for; sets `options.data`."""
    study = STUDIES[options.study]
    if study.data is not None and options.data not in (None, study.data):
        parser.error(
            f"the study {options.study} is of the built-in {study.data}: leave --data out or choose one of cells"
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


def length_of(study: Study, options: argparse.Namespace) -> dict[str, float]:
    """The budget as an option of training."""
    if study.minutes is None:
        return {"epochs": options.epochs or study.epochs}
    return {"minutes": options.minutes or study.minutes}


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / f"{name.lower().replace(',', '').replace(' ', '-')}-{seed}"


def training_options(study: Study, name: str, length: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """All that a run depends on but for its seed."""
    variant, own = study.detectors[name]
    weights = {} if options.backbone_weights is None else {"backbone_weights": str(options.backbone_weights)}
    return {"variant": variant, "data": options.data, **length, **study.options, **own, **weights}


def figures_of(folder: Path, target: Path, seed: int) -> list[Path]:
    """Where figures of runs with this seed may lie: those of the run itself first."""
    first = [target / "figures.json", KEPT / folder.name / f"{target.name}.json"]
    return [*filter(Path.is_file, first), *folder.parent.glob(f"*/*-{seed}/figures.json")]


def start(
    study: Study, folder: Path, length: dict[str, float], name: str, seed: int, options: argparse.Namespace
) -> None:
    """One run in a process of its own, unless it is there."""
    target = run_folder(folder, name, seed)
    wanted = json.loads(json.dumps(training_options(study, name, length, options)))
    for figures in [] if options.fresh else figures_of(folder, target, seed):
        if json.loads(figures.read_text())["options"] == wanted:
            if figures.parent != target:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(figures, target / "figures.json")
            return
    command = [sys.executable, __file__, "--study", options.study, "--data", options.data, "--output", str(target)]
    command += ["--run", name, "--seeds", str(seed), *(f"--{unit}={value:g}" for unit, value in length.items())]
    if options.backbone_weights:
        command += ["--backbone-weights", str(options.backbone_weights)]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # an earlier run that did not end
    with (target.parent / f"{target.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    print(f"{name}, seed {seed}: done", flush=True)


def run_one(study: Study, length: dict[str, float], options: argparse.Namespace) -> None:
    """Trains one detector with one seed."""
    import torch

    from detrkit import evaluate, load, open_dataset
    from detrkit.allocation import keep_freed_memory
    from detrkit.training import train

    keep_freed_memory()
    torch.set_num_threads(1)  # two runs at once on two cores do more than one run on both
    chosen = training_options(study, options.run, length, options)
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
            **{f"{name} by epoch": column for name in WATCHED if (column := numbers(rows, name))},
            "seconds by epoch": seconds_by_epoch(rows, study.options["batch_size"]),
            "steps": int(float(rows[-1]["step"])),
            "figures": evaluation.figures,
            "classes": {entry.name: {"AP": entry.ap, "AP50": entry.ap50} for entry in evaluation.classes},
        },
    )


def numbers(rows: Sequence[dict[str, str]], column: str) -> list[float | None]:
    """A column of the log; None where an epoch has no such figure, and nothing where the log has none."""
    return [float(row[column]) if row[column] else None for row in rows] if column in rows[0] else []


def seconds_by_epoch(rows: Sequence[dict[str, str]], batch_size: int) -> list[float]:
    """Seconds of training up to the end of each epoch."""
    steps = [0.0, *(float(row["step"]) for row in rows)]
    images = [(after - before) * batch_size for before, after in itertools.pairwise(steps)]
    return list(itertools.accumulate(n / float(row["images_per_second"]) for n, row in zip(images, rows, strict=True)))


def report(study: Study, folder: Path, seeds: Sequence[int], length: dict[str, float], *, suffix: str = "") -> None:
    """Prints the last epoch's figures and draws AP against epochs."""
    found = {
        name: [json.loads((run_folder(folder, name, seed) / "figures.json").read_text()) for seed in seeds]
        for name in study.detectors
    }
    for runs in found.values() if study.minutes is None else []:
        quickest = min(after - before for run in runs for before, after in _epochs(run["seconds by epoch"]))
        for run in runs:
            run["seconds by epoch"] = [quickest * (place + 1) for place in range(len(run["AP by epoch"]))]
    budget = " and ".join(f"{value:g} {unit}" for unit, value in length.items())
    lines = [f"{study.title}; {budget}, seeds {', '.join(map(str, seeds))}: mean (each seed)"]
    for name, runs in found.items():
        columns = {"AP": [run["figures"]["AP"] for run in runs], "AP50": [run["figures"]["AP50"] for run in runs]}
        columns["AP small"] = [run["figures"]["AP_small"] for run in runs]
        for column, title in WATCHED.items():
            if study.options.get("watch"):
                columns[title] = [last_known(run[f"{column} by epoch"]) for run in runs]
        if study.minutes is not None:
            columns["steps"] = [run["steps"] for run in runs]
        columns["seconds"] = [runs[0]["seconds by epoch"][-1]]
        if study.watched:
            columns[f"AP {study.watched}"] = [run["classes"][study.watched]["AP"] for run in runs]
        lines.append(name.ljust(52) + "   ".join(f"{key} {_shown(values)}" for key, values in columns.items()))
    print("\n".join(lines))
    write_text(folder / f"figures{suffix}.txt", "\n".join(lines) + "\n")
    draw(study, found, folder / f"convergence{suffix}.png")
    if study.options.get("watch"):
        draw_watched(study, found, folder / f"watched{suffix}.png")


def last_known(values: Sequence[float | None]) -> float | None:
    """That of the last epoch that has the figure."""
    return next((value for value in reversed(values) if value is not None), None)


def _epochs(seconds: Sequence[float]) -> itertools.pairwise[tuple[float, float]]:
    """Beginning and end of every epoch."""
    return itertools.pairwise([0.0, *seconds])


def _shown(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 0 if max(known) > 1 else 3
    if len(values) == 1:
        return f"{known[0]:.{digits}f}"
    return f"{statistics.mean(known):.{digits}f} ({', '.join(f'{value:.{digits}f}' for value in known)})"


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


def draw_watched(study: Study, found: dict[str, list[dict[str, Any]]], target: Path) -> None:
    """What --watch has seen, against epochs: the mean of the seeds, and each seed thin."""
    from matplotlib.figure import Figure

    from detrkit.measures import name_of

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    panels = figure.subplots(1, len(WATCHED))
    for column, axes in zip(WATCHED, panels, strict=True):
        for place, (name, runs) in enumerate(found.items()):
            curves = [run[f"{column} by epoch"] for run in runs]
            for curve in curves:
                axes.plot(range(1, len(curve) + 1), _gaps(curve), color=f"C{place}", alpha=0.35, linewidth=1)
            means = [None if None in values else statistics.mean(values) for values in zip(*curves, strict=True)]
            axes.plot(range(1, len(means) + 1), _gaps(means), color=f"C{place}", marker=".", label=name)
        axes.set(xlabel="epoch", title=name_of(column))
        axes.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.suptitle(study.title)
    figure.savefig(target, dpi=120)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


if __name__ == "__main__":
    main()
