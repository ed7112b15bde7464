"""Speed and memory of panoptic DETR (R50) beside `DetrForSegmentation` of `transformers`, with the same weights, in alternation.

    python benchmarks/peers_masks.py --rounds 3

Masks are computed for 25 objects an image: here for the 25 queries with the highest scores, and in training for matched queries; theirs
computes those of all 100 queries. The forward pass with all masks is timed, too. Times are medians over the rounds; what counts is the ratio.
Peak memory is that of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peers import HEIGHT, SIDES, WIDTH, make_ours, resident

import detrkit
from detrkit.models.detr_segmentation import MaskDetector, WithMasks
from detrkit.structures import ImageBatch, Target

OBJECTS = 25


def make_theirs() -> Any:
    """`transformers`' model with the layout of detr-r50-panoptic, its norms tamed, its stem and first stage frozen as by the authors."""
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]),
        use_timm_backbone=False,
        num_labels=250,
        auxiliary_loss=True,
        attention_dropout=0.1,
    )
    model = transformers.DetrForSegmentation(config)
    for name, buffer in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("normalization.weight"):
            buffer.data.fill_(0.5)
    for name, parameter in model.detr.model.backbone.named_parameters():
        parameter.requires_grad_("embedder" not in name and "stages.0" not in name and "normalization" not in name)
    return model


def images(count: int) -> torch.Tensor:
    """Random normalised images."""
    return torch.randn(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def objects(count: int) -> list[dict[str, torch.Tensor]]:
    """Random objects for each image, as transformers takes them."""
    generator = torch.Generator().manual_seed(2)
    return [
        {
            "class_labels": torch.randint(250, (OBJECTS,), generator=generator),
            "boxes": torch.rand(OBJECTS, 4, generator=generator) * 0.4 + 0.1,
            "masks": torch.rand(OBJECTS, HEIGHT, WIDTH, generator=generator) > 0.8,
        }
        for _ in range(count)
    ]


def forward(side: str, model: Any) -> Callable[[], Any]:
    """A forward pass in eval mode, batch 1, with the masks that are needed."""
    model.eval()
    pixels = images(1)
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.int64)

    @torch.inference_mode()
    def run() -> Any:
        if side == "theirs":
            return model(pixel_values=pixels, pixel_mask=mask)
        output = model(ImageBatch(pixels))
        best = output.logits[-1, 0].softmax(-1)[:, :-1].amax(-1).topk(OBJECTS).indices
        return output, model.mask_logits(output.mask_inputs, torch.zeros_like(best), best)

    return run


def forward_with_all_masks(side: str, model: Any) -> Callable[[], Any]:
    """The same with the masks of all queries."""
    if side == "theirs":
        return forward(side, model)
    whole, batch = WithMasks(model).eval(), ImageBatch(images(1))

    @torch.inference_mode()
    def run() -> Any:
        return whole(batch)

    return run


def training_step(side: str, model: Any) -> Callable[[], Any]:
    """Forward, loss, backward, clipping and AdamW, batch 1."""
    return step_of(side, model.train())


def head_step(side: str, model: Any) -> Callable[[], Any]:
    """The same with the detector frozen, where only the head learns; of theirs by `requires_grad` alone, which has nothing else for it."""
    if side == "ours":
        model.freeze_detector()
    else:
        model.detr.requires_grad_(False)
    return step_of(side, model.train())


def step_of(side: str, model: Any) -> Callable[[], Any]:
    """A training step of the parameters that train."""
    pixels, labels = images(1), objects(1)
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.int64)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4, fused=True)
    criterion = detrkit.criterion_for(model) if side == "ours" else None
    targets = [Target(each["class_labels"], each["boxes"], each["masks"]) for each in labels]

    def run() -> float:
        optimizer.zero_grad()
        if criterion is not None:
            loss = criterion(model(ImageBatch(pixels)), targets).total
        else:
            loss = model(pixel_values=pixels, pixel_mask=mask, labels=labels).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        return float(loss.detach())

    return run


WORK = {
    "forward, 25 masks": forward,
    "forward, 100 masks": forward_with_all_masks,
    "training step, 25 objects": training_step,
    "step of the head alone": head_step,
}


def agreement(ours: MaskDetector, theirs: Any) -> None:
    """Both sides give the same masks, or the comparison means nothing."""
    found, wanted = forward_with_all_masks("ours", ours)()[2], forward("theirs", theirs)().pred_masks
    difference = (found - wanted).abs().max().item()
    print(f"largest difference of mask logits: {difference:.1e} (their spread: {wanted.std().item():.1e})")
    if difference > 1e-2 * wanted.std().item():
        raise SystemExit("the two models do not agree, so their times cannot be compared")


def alternate(rounds: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Each kind of work with its seconds, side by side."""
    theirs = make_theirs()
    models = {"theirs": theirs, "ours": make_ours(theirs, variant="detr-r50-panoptic")}
    agreement(models["ours"], theirs)
    for name, prepare in WORK.items():
        runs = {side: prepare(side, models[side]) for side in SIDES}
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                gc.collect()
                began = time.perf_counter()
                runs[side]()
                seconds[side].append(time.perf_counter() - began)
        yield name, seconds


def alone(side: str, name: str) -> None:
    """Does one kind of work on one side and prints the peak of resident memory in GB, whole and above libraries."""
    if side == "theirs":
        _ = importlib.import_module("transformers").DetrForSegmentation
    libraries = resident("VmRSS")
    run = WORK[name](side, detrkit.build("detr-r50-panoptic") if side == "ours" else make_theirs())
    for _ in range(3):
        run()
    print(json.dumps([resident("VmHWM"), resident("VmHWM") - libraries]))


def peaks(side: str, name: str, processes: int) -> tuple[float, float]:
    """The same of processes of their own: medians, since they vary."""
    command = [sys.executable, __file__, "--alone", side, "--work", name, "--threads", str(torch.get_num_threads())]
    found = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for _ in range(processes)
    ]
    whole, above = (statistics.median(values) for values in zip(*found, strict=True))
    return whole, above


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3, help="of each side, for its peak memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", choices=("times", "memory"), help="one half of the table; memory does not depend on other work"
    )
    parser.add_argument("--alone", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options.alone, options.work)
        return
    print(f"detr-r50-panoptic, {options.threads} threads, float32, {HEIGHT} x {WIDTH}, {OBJECTS} objects")
    if options.only != "memory":
        print_times(options.rounds)
    if options.only != "times":
        print_memory(options.processes)


def print_times(rounds: int) -> None:
    """A row for each kind of work as soon as it is known."""
    print(f"{'':28}{'ours':>12}{'theirs':>12}{'ratio':>8}   (pair by pair)")
    for name, sides in alternate(rounds):
        ours, theirs = (statistics.median(sides[side]) for side in SIDES)
        ratios = [a / b for a, b in zip(sides["ours"], sides["theirs"], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:28}{ours:10.2f} s{theirs:10.2f} s{statistics.median(ratios):8.2f}   {spread}", flush=True)


def print_memory(processes: int) -> None:
    """Peaks of the forward pass and of the training step."""
    for name in ("forward, 25 masks", "training step, 25 objects"):
        own, others = peaks("ours", name, processes), peaks("theirs", name, processes)
        for part, ours, theirs in zip(("whole", "above libraries"), own, others, strict=True):
            print(f"{f'memory, {name}, {part}':50}{ours:6.2f} GB{theirs:10.2f} GB{ours / theirs:8.2f}", flush=True)


if __name__ == "__main__":
    main()
