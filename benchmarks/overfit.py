"""Can DETR learn real photos by heart? Sixteen photos of COCO, from pretrained backbone weights, on two processor cores in half an hour.

    python benchmarks/overfit.py --data COCO --backbone-weights mobilenet_v2.safetensors --output runs/overfit

`--data` is a folder in COCO's layout whose training split holds these photos of train2017. They are learned and looked at without any
augmentation, so the AP says whether model, matching, loss, data and evaluation fit together, not how good it would be on other photos.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from PIL import Image
from rich.console import Console

import detrkit
from detrkit.data import DetectionDataset
from detrkit.prediction import Predictor, contact_sheet, save_image, side_by_side, truth_of
from detrkit.training import train

# Photos of train2017 with one to eight objects, none of them small and no crowd among them.
PHOTOS = (25, 30, 64, 72, 86, 94, 142, 165, 192, 194, 208, 309, 370, 450, 459, 491)
# Of these, photos that may be shown anywhere with their source named (CC BY and CC BY-SA).
SHOWN = (30, 72, 165, 208, 309, 370)


def cut_out(dataset: DetectionDataset, folder: Path) -> Path:
    """Writes the sixteen photos' annotations as a data set of its own, whose splits are the same."""
    places = {int(image_id): place for place, image_id in enumerate(dataset.image_ids)}
    chosen = dataset.subset([places[photo] for photo in PHOTOS])
    content = chosen.to_coco()
    images = {entry["id"]: entry for entry in content["images"]}
    for place, image_id in enumerate(chosen.image_ids.tolist()):
        images[image_id]["file_name"] = str(Path(chosen.images[place]).resolve())  # type: ignore[index]
    used = {entry["category_id"] for entry in content["annotations"]}
    content["categories"] = [entry for entry in content["categories"] if entry["id"] in used]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def picture(model: detrkit.Detector, dataset: DetectionDataset) -> Image.Image:
    """What the model finds beside what was annotated, for the photos that may be shown."""
    predictor = Predictor(model)
    places = {int(image_id): place for place, image_id in enumerate(dataset.image_ids)}
    pairs = [
        side_by_side(
            dataset.image(places[photo]), predictor(dataset.image(places[photo])), truth_of(dataset, places[photo])
        )
        for photo in SHOWN
    ]
    return contact_sheet(pairs, width=640, columns=2)


def main() -> None:
    """Trains, evaluates and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone-weights", required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    console = Console()
    data = cut_out(detrkit.open_dataset(options.data, "train"), options.output / "data")
    began = time.perf_counter()
    result = train(
        "detr-mobilenetv2",
        data,
        output=str(options.output / "run"),
        backbone_weights=options.backbone_weights,
        settings={"queries": 30, "encoder_layers": 2, "decoder_layers": 4, "dropout": 0.0},
        steps=options.steps,
        batch_size=4,
        accumulate=1,
        lr=2e-4,
        backbone_lr=5e-5,
        schedule="cosine",
        warmup_steps=50,
        short_side=320,
        long_side=512,
        flip=0.0,
        crop=False,
        multi_scale=False,
        evaluate_every=50,
        console=console,
    )
    assert result.evaluation is not None
    minutes = (time.perf_counter() - began) / 60
    sheet = save_image(
        options.output / "predictions.jpg", picture(detrkit.load(result.best), detrkit.open_dataset(data, "val"))
    )
    console.print(
        f"{result.evaluation.summary()}; {options.steps} steps in {minutes:.1f} minutes; picture: {sheet}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
