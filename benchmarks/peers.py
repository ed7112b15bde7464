"""Speed and memory of detrkit's DETR, Conditional DETR, DAB-DETR or Deformable DETR (R50) beside that of `transformers`, with the same weights, in alternation.

    python benchmarks/peers.py --rounds 5
    python benchmarks/peers.py --model deformable-detr-r50 --rounds 3
    python benchmarks/peers.py --model conditional-detr-r50 --rounds 5
    python benchmarks/peers.py --model smca-detr-r50 --beside detr-r50 --rounds 5     # the forward pass of two of detrkit's own

Times are medians over the rounds; what counts is the ratio, since the machine's speed drifts. Peak memory is that of a process of its own
for each side, which does nothing else, whole and without what it held once its libraries were imported, the median of three processes. Random weights with tamed norms:
values do not change the time.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.layers.sampling.operator import choice
from detrkit.structures import ImageBatch, Target

HEIGHT, WIDTH = 800, 1066
OBJECTS = 7  # COCO's mean number of objects an image
SIDES = ("ours", "theirs")
PROCESSES = 3  # of each side, for its peak memory
SETTINGS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # what `transformers` calls each variant: the beginning of its classes' names, and settings besides those of all
    "detr-r50": ("Detr", {}),
    "conditional-detr-r50": ("ConditionalDetr", {}),
    "dab-detr-r50": ("DabDetr", {"dropout": 0.0, "attention_dropout": 0.0}),
    "deformable-detr-r50": ("DeformableDetr", {}),
    "deformable-detr-r50-refine": ("DeformableDetr", {"with_box_refine": True}),
    "deformable-detr-r50-two-stage": ("DeformableDetr", {"with_box_refine": True, "two_stage": True}),
}


def make_theirs(variant: str) -> Any:
    """`transformers`' model with the layout of this variant, its norms tamed."""
    transformers: Any = importlib.import_module("transformers")  # a development extra without types of its own
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    name, settings = SETTINGS[variant]
    stages = ["stage2", "stage3", "stage4"] if name == "DeformableDetr" else ["stage4"]
    config = getattr(transformers, f"{name}Config")(
        backbone_config=transformers.ResNetConfig(out_features=stages),
        use_timm_backbone=False,
        num_labels=91,
        auxiliary_loss=True,
        **{"attention_dropout": 0.1, **settings},  # as in the authors' code
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    for name, buffer in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("normalization.weight"):
            buffer.data.fill_(0.5)
    # As in the authors' code, the stem and the first stage do not train. (transformers 5.23 freezes the whole of its own ResNet, since
    # it looks for other names; left so, the two sides would not do the same work.)
    for name, parameter in model.model.backbone.named_parameters():
        parameter.requires_grad_("embedder" not in name and "stages.0" not in name and "normalization" not in name)
    return model


def make_ours(theirs: Any, *, variant: str | None = None) -> detrkit.Detector:
    """Our model from a file that theirs saved; `variant` is needed where the file fits several."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return detrkit.load(Path(folder) / "model.safetensors", variant=variant)


def images(count: int) -> torch.Tensor:
    """Random normalised images."""
    return torch.randn(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def objects(count: int) -> list[dict[str, torch.Tensor]]:
    """Random objects for each image, as transformers takes them."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "class_labels": torch.randint(91, (OBJECTS,), generator=generator),
            "boxes": torch.rand(OBJECTS, 4, generator=generator) * 0.4 + 0.1,
        }
        for _ in range(count)
    ]


def forward(side: str, model: Any) -> Callable[[], Any]:
    """A forward pass in eval mode, batch 1, nothing padded."""
    model.eval()
    pixels = images(1)
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.int64)
    batch = ImageBatch(pixels)

    @torch.inference_mode()
    def run() -> Any:
        return model(batch) if side == "ours" else model(pixel_values=pixels, pixel_mask=mask)

    return run


def training_step(side: str, model: Any) -> Callable[[], Any]:
    """Forward, loss, backward, clipping and AdamW, batch 2."""
    model.train()
    pixels, labels = images(2), objects(2)
    mask = torch.ones(2, HEIGHT, WIDTH, dtype=torch.int64)
    if side == "ours":
        # Imported here, since it brings Lightning, which no forward pass needs.
        from detrkit.training.optimizer import build_optimizer

        optimizer: torch.optim.Optimizer = build_optimizer(model, lr=1e-4, backbone_lr=1e-5, weight_decay=1e-4)
        criterion = detrkit.criterion_for(model)
        batch = ImageBatch(pixels)
        targets = [Target(labels=each["class_labels"], boxes_cxcywh=each["boxes"]) for each in labels]
    else:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4, fused=True)  # as ours

    def run() -> float:
        optimizer.zero_grad()
        if side == "ours":
            loss = criterion(model(batch), targets).total
        else:
            loss = model(pixel_values=pixels, pixel_mask=mask, labels=labels).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return float(loss)

    return run


WORK = {"forward, batch 1": forward, "training step, batch 2": training_step}


def alternate(variant: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each kind of work, side by side."""
    theirs = make_theirs(variant)
    models = {"theirs": theirs, "ours": make_ours(theirs)}
    agreement(models)
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, prepare in WORK.items():
        runs = {side: prepare(side, models[side]) for side in SIDES}
        for run in runs.values():
            run()
        seconds[name] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                gc.collect()
                began = time.perf_counter()
                runs[side]()
                seconds[name][side].append(time.perf_counter() - began)
    return seconds


def agreement(models: dict[str, Any]) -> None:
    """Both sides give the same, or the comparison means nothing."""
    ours, theirs = (forward(side, models[side])() for side in SIDES)
    difference = (ours.layers[-1].logits - theirs.logits).abs().max().item()
    print(f"largest difference of class scores: {difference:.1e}")
    if difference > 1e-3:
        raise SystemExit("the two models do not agree, so their times cannot be compared")


def beside(variant: str, other: str, rounds: int) -> None:
    """Prints the time of a forward pass of two of our own models, in alternation."""
    torch.manual_seed(0)
    runs = {name: forward("ours", detrkit.build(name)) for name in (variant, other)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first round warms up
        for name in runs if number % 2 == 0 else reversed(runs):
            began = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds[variant][1:], seconds[other][1:], strict=True)]
    for name, each in seconds.items():
        print(f"forward, batch 1, {name}: {statistics.median(each[1:]):.2f} s")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def peak_memory(variant: str, side: str, name: str) -> dict[str, float]:
    """Peak resident memory in GB of a process that does this work three times, `whole` and `above libraries`: medians, since it varies."""
    found = [peak_of_a_process(variant, side, name) for _ in range(PROCESSES)]
    return {part: statistics.median(each[part] for each in found) for part in found[0]}


def peak_of_a_process(variant: str, side: str, name: str) -> dict[str, float]:
    """The same of one process."""
    command = [sys.executable, __file__, "--model", variant, "--alone", side, "--work", name]
    command += ["--threads", str(torch.get_num_threads())]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def alone(variant: str, side: str, name: str) -> None:
    """Does one kind of work on one side and prints the peak of resident memory."""
    if side == "theirs":  # whose parts are imported when they are first asked for
        transformers: Any = importlib.import_module("transformers")
        _ = getattr(transformers, f"{SETTINGS[variant][0]}ForObjectDetection")
    else:
        importlib.import_module("detrkit.training" if WORK[name] is training_step else "detrkit.models.catalog")
        choice(torch.device("cpu"), torch.float32)  # imports numba
    libraries = resident("VmRSS")
    if side == "ours":
        torch.manual_seed(0)
        model: Any = detrkit.build(variant)
    else:
        model = make_theirs(variant)
    run = WORK[name](side, model)
    for _ in range(3):
        run()
    peak = resident("VmHWM")
    print(json.dumps({"whole": peak, "above libraries": peak - libraries}))


def resident(figure: str) -> float:
    """Resident memory of this process in GB: `VmRSS` now, `VmHWM` at its peak. Not getrusage, whose peak is handed down from the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(figure))
    return int(line.split()[1]) / 1024**2


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        metavar="VARIANT",
        default="detr-r50",
        help="one of these, or any with --beside: " + ", ".join(SETTINGS),
    )
    parser.add_argument("--beside", metavar="VARIANT", help="compare with this one of our own instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.beside is None and options.model not in SETTINGS:
        parser.error(f"`transformers` has no {options.model}: choose one of {', '.join(SETTINGS)}, or give --beside")
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options.model, options.alone, options.work)
        return
    print(
        f"{options.model}, torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}, {platform.processor() or platform.machine()}, "
        f"{options.threads} threads, float32, {HEIGHT} x {WIDTH}"
    )
    if options.beside:
        beside(options.model, options.beside, options.rounds)
        return
    seconds = alternate(options.model, options.rounds)
    print(f"{'':24}{'ours':>16}{'theirs':>16}{'ratio':>8}{'   (pair by pair)':18}")
    for name, sides in seconds.items():
        ours, theirs = (statistics.median(sides[side]) for side in SIDES)
        ratios = [a / b for a, b in zip(sides["ours"], sides["theirs"], strict=True)]
        print(
            f"{name:24}{ours:14.2f} s{theirs:14.2f} s{statistics.median(ratios):8.2f}   ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    for name in WORK:
        peaks = {side: peak_memory(options.model, side, name) for side in SIDES}
        for part in ("whole", "above libraries"):
            ours, theirs = (peaks[side][part] for side in SIDES)
            print(f"{f'memory, {name}, {part}':46}{ours:6.2f} GB{theirs:13.2f} GB{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
