"""Four published detectors through onnxruntime, on COCO photos that detrkit reads and with figures that detrkit computes, beside expected figures.

    python benchmarks/onnx_detectors.py --data coco --weights weights --expected expected_coco_val_detectors.json

Ends with exit code 1 if any of the twelve figures of any detector differs from the expected one by more than 0.002.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torchvision.ops import batched_nms

from detrkit.data import DetectionDataset, open_dataset
from detrkit.evaluation.coco import evaluate_detections
from detrkit.prediction.results import result_entry

ALLOWED = 0.002
SHOWN = 100  # detections of an image
SIDE = 416
FIGURES = {  # the expected file's names for detrkit's
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_small": "AP_small", "AP_medium": "AP_medium", "AP_large": "AP_large",
    "AR_1": "AR1", "AR_10": "AR10", "AR_100": "AR100", "AR_small": "AR_small", "AR_medium": "AR_medium", "AR_large": "AR_large",
}  # fmt: skip

Found = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # boxes (N, 4) as corners in pixels of the photo, scores (N,), labels (N,)
Detector = Callable[[onnxruntime.InferenceSession, np.ndarray], Found]


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialias and in whole numbers, as OpenCV does it on bytes, which is what these detectors were measured with.

    Args:
        picture: (H, W, 3) uint8.
        height: of the result.
        width: of the result.
    """
    top, bottom, lower = _neighbours(picture.shape[0], height)
    left, right, further = _neighbours(picture.shape[1], width)
    values = picture.astype(np.int64)
    rows = values[:, left] * (2048 - further)[None, :, None] + values[:, right] * further[None, :, None]
    # OpenCV drops 4 bits before it weighs the rows and 16 more after that, so that products fit its registers.
    above = (rows[top] >> 4) * (2048 - lower)[:, None, None] >> 16
    below = (rows[bottom] >> 4) * lower[:, None, None] >> 16
    result: np.ndarray = np.clip((above + below + 2) >> 2, 0, 255).astype(np.uint8)
    return result


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new place: the places before and behind it, and the weight of the latter in 2048ths."""
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(places).astype(np.int64)
    weights = np.rint((places - first.astype(np.float32)) * np.float32(2048)).astype(np.int64)
    weights[first < 0] = 0
    weights[first >= old - 1] = 0
    first = first.clip(0, old - 1)
    return first, (first + 1).clip(0, old - 1), weights


def deim(session: onnxruntime.InferenceSession, photo: np.ndarray) -> Found:
    """DEIMv2: RGB as fractions, whatever the aspect ratio; it returns 300 boxes without need of suppression."""
    images, sizes = (entry.name for entry in session.get_inputs())
    side = session.get_inputs()[0].shape[-1]
    pixels = resize(photo, side, side).transpose(2, 0, 1)[None].astype(np.float32) / 255
    size = np.array([[photo.shape[1], photo.shape[0]]], dtype=np.int64)
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], {images: pixels, sizes: size})
    return boxes[0], scores[0], labels[0]


def yolox(session: onnxruntime.InferenceSession, photo: np.ndarray) -> Found:
    """YOLOX: BGR in the upper left of a grey square; centres and logarithms of sizes relative to cells, objectness times class."""
    scale = min(SIDE / photo.shape[0], SIDE / photo.shape[1])
    height, width = int(photo.shape[0] * scale), int(photo.shape[1] * scale)
    square = np.full((SIDE, SIDE, 3), 114, dtype=np.float32)
    square[:height, :width] = resize(photo, height, width)[..., ::-1]
    output = _run(session, square)[0]
    cells, strides = _cells((8, 16, 32), SIDE)
    centres = (output[:, :2] + cells) * strides
    sizes = np.exp(output[:, 2:4]) * strides
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) / scale
    boxes = corners.clip(0, np.tile([photo.shape[1], photo.shape[0]], 2))
    return _suppressed(boxes, output[:, 4:5] * output[:, 5:], lowest=0.001, overlap=0.65)


def nanodet(session: onnxruntime.InferenceSession, photo: np.ndarray) -> Found:
    """NanoDet: BGR, normalised, whatever the aspect ratio; distances to the sides are expectations over 8 bins."""
    mean, deviation = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
    pixels = (resize(photo, SIDE, SIDE)[..., ::-1] - mean) / deviation
    outputs = {entry.shape[1:]: entry for entry in _runs(session, pixels.astype(np.float32))}
    boxes, scores = [], []
    for stride in (8, 16, 32):
        count = (SIDE // stride) ** 2
        of_classes, of_sides = outputs[(count, 80)][0], outputs[(count, 32)][0]
        cells, _ = _cells((stride,), SIDE)
        centres = (cells + 0.5) * stride - 0.5
        shares = np.exp(of_sides.reshape(-1, 4, 8) - of_sides.reshape(-1, 4, 8).max(axis=2, keepdims=True))
        distances = (shares / shares.sum(axis=2, keepdims=True) * np.arange(8)).sum(axis=2) * stride
        boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1))
        scores.append(of_classes)
    scaled = np.concatenate(boxes).clip(0, SIDE) * np.tile([photo.shape[1] / SIDE, photo.shape[0] / SIDE], 2)
    return _suppressed(scaled, np.concatenate(scores), lowest=0.05, overlap=0.6)


def _runs(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> list[np.ndarray]:
    """All outputs for one picture (H, W, 3) float32."""
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})
    return outputs


def _run(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """The only output."""
    return _runs(session, pixels)[0]


def _cells(strides: tuple[int, ...], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of all cells, row by row and level by level, and their strides (N, 1)."""
    grids, steps = [], []
    for stride in strides:
        rows, columns = np.divmod(np.arange((side // stride) ** 2), side // stride)
        grids.append(np.stack([columns, rows], axis=1))
        steps.append(np.full((len(rows), 1), stride))
    return np.concatenate(grids), np.concatenate(steps)


def _suppressed(boxes: np.ndarray, scores: np.ndarray, *, lowest: float, overlap: float) -> Found:
    """What is left of every class above a score once boxes that overlap a better one of their class are gone."""
    places, labels = np.nonzero(scores > lowest)
    candidates, values = torch.from_numpy(boxes[places]), torch.from_numpy(scores[places, labels])
    kept = batched_nms(candidates.float(), values.float(), torch.from_numpy(labels), overlap)
    return candidates[kept].numpy(), values[kept].numpy(), labels[kept.numpy()]


DETECTORS: dict[str, Detector] = {
    "deimv2_hgnetv2_femto": deim,
    "deimv2_hgnetv2_atto": deim,
    "yolox_nano": yolox,
    "nanodet_m_416": nanodet,
}


def detections(detector: Detector, file: Path, dataset: DetectionDataset, threads: int) -> list[dict[str, Any]]:
    """COCO result entries of all photos."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3  # errors: the files list weights among their inputs, which is warned of one by one
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    entries = []
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        boxes, scores, labels = detector(session, np.asarray(dataset.image(index)))
        for place in np.argsort(-scores, kind="stable")[:SHOWN].tolist():
            category = dataset.categories[int(labels[place])].id
            entries.append(result_entry(image_id, category, boxes[place].tolist(), float(scores[place])))
    return entries


def main() -> None:
    """Prints the twelve figures of every detector beside the expected ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="COCO's folder, with annotations for val")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the four ONNX files")
    parser.add_argument("--expected", type=Path, required=True, help="JSON file of expected figures")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    dataset, expected = open_dataset(options.data, "val"), json.loads(options.expected.read_text())
    worst = 0.0
    for name, detector in DETECTORS.items():
        file = next(options.weights.glob(f"{name}*.onnx"))
        entries = detections(detector, file, dataset, options.threads)
        figures = evaluate_detections(dataset.to_coco(), entries, name=dataset.name).figures
        differences = []
        print(f"{name}: {len(entries)} detections, {expected[name]['detections']} expected")
        for key, own in FIGURES.items():
            value, wanted = figures[own] or 0.0, expected[name][key]
            differences.append(abs(value - wanted))
            print(f"    {key:10}{value:9.5f}{wanted:9.5f}{value - wanted:+10.5f}")
        worst = max(worst, *differences)
        print(f"    largest difference {max(differences):.5f}", flush=True)
    print(f"largest difference of all: {worst:.5f} ({ALLOWED} is allowed)")
    sys.exit(int(worst > ALLOWED))


if __name__ == "__main__":
    main()
