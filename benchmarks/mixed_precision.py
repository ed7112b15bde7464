"""How far a trained detector's detections in bf16 agree with those in float32.

    python benchmarks/mixed_precision.py MODEL --data digits

A float32 detection that scores over 0.3 agrees where bf16 has one of the same class at an IoU of at least 0.95, whatever its score.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

import detrkit
from detrkit.boxes import iou_and_union_xyxy, xywh_to_xyxy
from detrkit.evaluation import compare, detect

SCORE, OVERLAP = 0.3, 0.95


def main() -> None:
    """Prints the share that agrees, and AP in both precisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model, dataset = detrkit.load(options.model), detrkit.open_dataset(options.data, options.split)
    exact = detect(model, dataset, device=options.device)
    with torch.autocast(options.device, dtype=torch.bfloat16):
        coarse = detect(model, dataset, device=options.device)
    agreeing, all_of_them = agreement(exact, coarse)
    print(f"{agreeing} of {all_of_them} detections over {SCORE} agree: {agreeing / max(1, all_of_them):.4f}")
    for name, entries in (("float32", exact), ("bf16", coarse)):
        figures = compare(model, dataset, entries).figures
        print(f"{name:8} AP {figures['AP']:.4f}, AP50 {figures['AP50']:.4f}")


def agreement(exact: list[dict[str, Any]], coarse: list[dict[str, Any]]) -> tuple[int, int]:
    """How many confident detections have a partner, and how many there are."""
    partners = by_image_and_class(coarse)
    agreeing = total = 0
    for key, boxes in by_image_and_class([entry for entry in exact if entry["score"] > SCORE]).items():
        total += len(boxes)
        if key in partners:
            overlap, _ = iou_and_union_xyxy(boxes[:, None], partners[key][None])
            agreeing += int((overlap >= OVERLAP).any(1).sum())
    return agreeing, total


def by_image_and_class(entries: list[dict[str, Any]]) -> dict[tuple[int, int], Tensor]:
    """(N, 4) corners of every image's detections of every class."""
    found = defaultdict(list)
    for entry in entries:
        found[entry["image_id"], entry["category_id"]].append(entry["bbox"])
    return {key: xywh_to_xyxy(torch.tensor(boxes, dtype=torch.float64)) for key, boxes in found.items()}


if __name__ == "__main__":
    main()
