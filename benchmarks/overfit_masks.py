"""Can DETR's mask head learn real photos by heart? Sixteen photos of COCO, from random weights, on two processor cores in half an hour.

    python benchmarks/overfit_masks.py --data COCO --masks panoptic --output runs/overfit_panoptic
    python benchmarks/overfit_masks.py --data COCO --masks instances --output runs/overfit_instances
    python benchmarks/overfit_masks.py --data COCO --photos 2 --steps 200 --attention-gain 1 --output runs/overfit_two

`--data` is a folder in COCO's layout whose training split holds these photos of train2017. They are learned and looked at without any
augmentation, so PQ and mask AP say whether model, loss, data and evaluation fit together, not how good it would be on other photos.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overfit import PHOTOS, SHOWN
from PIL import Image
from rich.console import Console

import detrkit
from detrkit.data.opening import Masks
from detrkit.prediction import Predictor, contact_sheet, save_image
from detrkit.prediction.drawing import draw
from detrkit.prediction.mask_drawing import draw_panoptic
from detrkit.training import train

SPLITS = ("train", "val")


def cut_out(data: Path, folder: Path, kind: Masks, photos: Sequence[int]) -> Path:
    """Writes these photos' annotations as a data set of its own, whose splits are the same."""
    source = data / "annotations" / f"{kind}_train.json"
    content: dict[str, Any] = json.loads(source.read_text())
    content["images"] = [entry for entry in content["images"] if entry["id"] in photos]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in photos]
    for entry in content["images"]:
        entry["file_name"] = str((data / "train" / entry["file_name"]).resolve())
    segments = [segment for entry in content["annotations"] for segment in entry.get("segments_info", [entry])]
    used = {segment["category_id"] for segment in segments}
    content["categories"] = [entry for entry in content["categories"] if entry["id"] in used]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
        maps = folder / f"panoptic_{split}"
        if kind == "panoptic" and not maps.exists():
            maps.symlink_to((data / "panoptic_train").resolve())
    return folder


def picture(model: detrkit.Detector, data: Path, kind: Masks) -> Image.Image:
    """What the model finds, for the photos that may be shown."""
    predictor, dataset = Predictor(model), detrkit.open_dataset(data, "val", masks=kind)
    places = {int(image_id): place for place, image_id in enumerate(dataset.image_ids)}
    drawn = []
    for photo in (each for each in SHOWN if each in places):
        image = dataset.image(places[photo])
        drawn.append(
            draw_panoptic(image, predictor.panoptic(image)) if kind == "panoptic" else draw(image, predictor(image))
        )
    return contact_sheet(drawn, width=480, columns=3)


def main() -> None:
    """Trains, evaluates and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--masks", choices=("panoptic", "instances"), default="panoptic")
    parser.add_argument("--variant", default="deformable-detr-compact-panoptic")
    parser.add_argument("--output", type=Path, default=Path("runs/overfit_masks"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--photos", type=int, default=len(PHOTOS), help="only the first of them")
    parser.add_argument("--attention-gain", type=float, help="another than the variant's, see MaskSettings")
    options = parser.parse_args()
    console = Console()
    data = cut_out(options.data, options.output / "data", options.masks, PHOTOS[: options.photos])
    settings: dict[str, Any] = {"queries": 30}
    if options.attention_gain is not None:
        settings["attention_gain"] = options.attention_gain
    began = time.perf_counter()
    result = train(
        options.variant,
        data,
        output=str(options.output / "run"),
        masks=options.masks,
        settings=settings,
        steps=options.steps,
        batch_size=min(4, options.photos),
        accumulate=1,
        short_side=160,
        long_side=256,
        flip=0.0,
        crop=False,
        multi_scale=False,
        evaluate_every=50,
        console=console,
    )
    minutes = (time.perf_counter() - began) / 60
    assert result.evaluation is not None
    figures = [result.evaluation.summary()]
    if options.masks == "panoptic":
        figures.append(
            detrkit.evaluate_panoptic(result.best, detrkit.open_dataset(data, "val", masks="panoptic")).summary()
        )
    sheet = save_image(options.output / "predictions.jpg", picture(detrkit.load(result.best), data, options.masks))
    for line in (*figures, f"{options.steps} steps in {minutes:.1f} minutes; picture: {sheet}"):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
