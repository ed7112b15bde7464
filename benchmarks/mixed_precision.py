"""How far a trained detector's detections in bf16 agree with those in float32.

    python benchmarks/mixed_precision.py MODEL --data digits

A float32 detection that scores over 0.3 agrees where it can be matched, one to one, to one of bf16 of the same class at an IoU of at least
0.95. How far the scores of such pairs lie apart is printed, too. The exit code is 1 where fewer than 99 in 100 agree.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import detrkit
from detrkit.boxes import iou_and_union_xyxy, xywh_to_xyxy
from detrkit.evaluation import compare, detect

SCORE, OVERLAP, WANTED = 0.3, 0.95, 0.99


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
    with torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16):
        coarse = detect(model, dataset, device=options.device)
    shifts, total = agreement(exact, coarse)
    print(f"{len(shifts)} of {total} detections over {SCORE} agree: {len(shifts) / max(1, total):.4f}")
    if shifts:
        print(f"their scores lie apart by {statistics.mean(shifts):.4f} on average, {max(shifts):.4f} at most")
    for name, entries in (("float32", exact), ("bf16", coarse)):
        figures = compare(model, dataset, entries).figures
        print(f"{name:8} AP {figures['AP']:.4f}, AP50 {figures['AP50']:.4f}")
    if len(shifts) < WANTED * total:
        raise SystemExit(1)


def agreement(exact: list[dict[str, Any]], coarse: list[dict[str, Any]]) -> tuple[list[float], int]:
    """How far the scores of matched pairs lie apart, and how many confident detections there are."""
    partners = by_image_and_class(coarse)
    shifts, total = [], 0
    for key, (boxes, scores) in by_image_and_class([entry for entry in exact if entry["score"] > SCORE]).items():
        total += len(boxes)
        if key in partners:
            other_boxes, other_scores = partners[key]
            overlap, _ = iou_and_union_xyxy(boxes[:, None], other_boxes[None])
            allowed = (overlap >= OVERLAP).double()
            pairs = linear_sum_assignment(-(allowed * (2 - (scores[:, None] - other_scores).abs())).numpy())
            shifts += [
                abs(float(scores[row] - other_scores[column]))
                for row, column in zip(*pairs, strict=True)
                if allowed[row, column]
            ]
    return shifts, total


def by_image_and_class(entries: list[dict[str, Any]]) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """(N, 4) corners and (N,) scores of every image's detections of every class."""
    found = defaultdict(list)
    for entry in entries:
        found[entry["image_id"], entry["category_id"]].append((*entry["bbox"], entry["score"]))
    tables = {key: torch.tensor(rows, dtype=torch.float64) for key, rows in found.items()}
    return {key: (xywh_to_xyxy(table[:, :4]), table[:, 4]) for key, table in tables.items()}


if __name__ == "__main__":
    main()
