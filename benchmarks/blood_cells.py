"""Blood cells in the minutes that somebody has: a variant of detrkit and torchvision's Faster R-CNN, same backbone, images and time.

    python benchmarks/blood_cells.py --data BCCD --weights mobilenet_v2_imagenet.safetensors

`--data` is a Pascal VOC folder (any layout that detrkit opens does). The two sides run one after the other; `--only` runs one of them, and
tables and pictures then show whatever `--output` holds of the other. A short calibration decides how many steps fit into the minutes, so that
the learning rate reaches zero with the last of them; neither it nor evaluation is counted. The last weights are the ones that are evaluated.

Faster R-CNN: MobileNetV2 with a feature pyramid of 128 channels at strides 4 to 32, the stem and first block fixed and all norms frozen as on
our side, short side 320, AdamW at 2e-4 with cosine decay, flips in both directions, and the rest as torchvision has it, but for two things
that it gains by: a lower threshold of scores, and 128 boxes an image to teach its second stage, which gives it nearly twice the steps
of torchvision's 512 (`--boxes-taught 512`).

`--several` trains nothing: it shows the figures of runs in the given folders, with other seeds for example, and their means, as they are and
with non-maximum suppression, which Faster R-CNN has in itself.

Our side has the same images, batches and flips, images of several sizes but no cuts of them, and for the rest the variant's own recipe. It
takes any training option, such as `--option 'settings={"queries": 50}'`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, cycle, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import v2

import detrkit
from detrkit.allocation import keep_freed_memory
from detrkit.checkpoints.reading import read_weights
from detrkit.data import DetectionDataset, epoch_order
from detrkit.evaluation import detect, evaluate_detections
from detrkit.evaluation.report.colors import LINE_COLORS
from detrkit.files import write_json
from detrkit.prediction.results import result_entry
from detrkit.prediction.suppression import kept_by_nms
from detrkit.training import train
from detrkit.training.run_folder import RunFolder, read_log

SIDES = ("ours", "theirs")
BATCH = 4
PYRAMID = {4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (18, 1280)}  # stride: last block of MobileNetV2, its channels
OURS: dict[str, Any] = {
    "batch_size": BATCH,
    "short_side": 320,
    "vertical_flip": 0.5,
    "crop": False,  # cuts enlarge what is in them, and cells have one size under the microscope
}
WARM_UP, TIMED = 8, 40  # steps of a calibration; ours warms up for a whole epoch, which is what the trainer times
SHOWN = 4  # test images in the picture
NMS = 0.8  # overlap
Curve = list[dict[str, float]]
Entries = list[dict[str, Any]]


class Learned(NamedTuple):
    """What one side came to.

    Attributes:
        name: of the model.
        curve: rows with `minutes` of training, `loss` and, where it was evaluated, `AP` and `AP50`.
        entries: detections on the test split in COCO's form.
        steps: optimizer steps.
        seconds_per_step: of the calibration; None where the steps were given.
        parameters: trainable ones.
    """

    name: str
    curve: Curve
    entries: Entries
    steps: int
    seconds_per_step: float | None
    parameters: int


def steps_within(minutes: float, seconds_per_step: float) -> int:
    """How many steps fit, told to whoever waits."""
    steps = max(1, int(minutes * 60 / seconds_per_step))
    print(f"calibration: {seconds_per_step:.3f} s a step, so {steps} steps in {minutes:g} minutes", flush=True)
    return steps


def run_ours(options: argparse.Namespace, test: DetectionDataset) -> Learned:
    """Trains the variant by the public training call."""
    settings = {**OURS, **dict(options.option), "backbone_weights": options.weights, "seed": options.seed}
    learn = partial(train, options.variant, options.data, train_split=options.train_split, val_split=options.test_split)
    images = len(detrkit.open_dataset(options.data, options.train_split))
    steps_per_epoch = max(1, images // settings["batch_size"])
    seconds = None
    if options.steps is None:
        with tempfile.TemporaryDirectory() as trial:
            learn(output=trial, steps=steps_per_epoch + TIMED, evaluate_every=images, **settings)
            seconds = step_seconds(read_log(RunFolder(Path(trial)).log), settings["batch_size"])[-1]
    steps = options.steps or steps_within(options.minutes, seconds or math.nan)
    epochs = math.ceil(steps / steps_per_epoch)
    every = math.ceil(epochs / options.evaluations) if options.evaluations else epochs
    folder = RunFolder(options.output / "run")
    learn(output=str(folder.path), steps=steps, evaluate_every=every, **settings)
    model = detrkit.load(folder.last)  # not the best one: that would be chosen by the test split
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = read_log(folder.log)
    curve = [
        {"minutes": minutes, **{name: row[name] for name in ("loss", "AP", "AP50") if name in row}}
        for row, minutes in zip(rows, training_minutes(rows, settings["batch_size"]), strict=True)
    ]
    return Learned(options.variant, curve, detect(model, test), steps, seconds, parameters)


def step_seconds(rows: list[dict[str, float]], batch_size: int) -> list[float]:
    """Seconds of a step in each epoch of a log; evaluations and files are not in them."""
    return [batch_size / row["images_per_second"] for row in rows]


def training_minutes(rows: list[dict[str, float]], batch_size: int) -> list[float]:
    """Minutes of training from the beginning to the end of each epoch of a log."""
    steps = np.diff([0.0, *(row["step"] for row in rows)])
    minutes: list[float] = (np.cumsum(steps * step_seconds(rows, batch_size)) / 60).tolist()
    return minutes


def run_theirs(options: argparse.Namespace, test: DetectionDataset) -> Learned:
    """Trains Faster R-CNN in a plain loop."""
    training = detrkit.open_dataset(options.data, options.train_split)
    seconds = None
    if options.steps is None:
        trainer = FasterRcnnTraining(options, training, steps=WARM_UP + TIMED)
        for _ in range(WARM_UP):
            trainer.step()
        seconds = sum(trainer.step() for _ in range(TIMED)) / TIMED
    steps = options.steps or steps_within(options.minutes, seconds or math.nan)
    trainer = FasterRcnnTraining(options, training, steps)
    evaluations = {round(steps * part / options.evaluations) for part in range(1, options.evaluations)}
    curve: Curve = []
    minutes, told = 0.0, 0
    for step in range(1, steps + 1):
        minutes += trainer.step() / 60
        if step in evaluations or step == steps or step % max(1, len(training) // BATCH) == 0:
            row = {"minutes": minutes, "loss": float(np.mean(trainer.losses[told:]))}
            told = step
            if step in evaluations or step == steps:
                entries = detections_of(trainer.model, test)
                figures = evaluate_detections(test.to_coco(), entries).figures
                row |= {name: value for name in ("AP", "AP50") if (value := figures[name]) is not None}
            curve.append(row)
            print(f"step {step}/{steps}: {', '.join(f'{name} {value:.3f}' for name, value in row.items())}", flush=True)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return Learned("Faster R-CNN (torchvision)", curve, entries, steps, seconds, parameters)


class FasterRcnnTraining:
    """Model, data and optimizer of torchvision's side.

    Args:
        options: of the command line.
        training: images to learn from.
        steps: after which the learning rate is zero.
    """

    def __init__(self, options: argparse.Namespace, training: DetectionDataset, steps: int) -> None:
        torch.manual_seed(options.seed)
        network = faster_rcnn(
            options.weights,
            len(training.categories),
            finest_stride=options.finest_stride,
            boxes_taught=options.boxes_taught,
        )
        self.model = network.train()
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=2e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)
        self.batches = flipped_batches(training, options.seed)
        self.losses: list[float] = []

    def step(self) -> float:
        """Takes one step, reading of the images included; gives its seconds."""
        began = time.perf_counter()
        images, targets = next(self.batches)
        loss = sum(self.model(images, targets).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())
        return time.perf_counter() - began


def faster_rcnn(weights: str, classes: int, *, finest_stride: int, boxes_taught: int) -> Any:
    """Faster R-CNN on MobileNetV2 with a feature pyramid, one size of anchors for each level as torchvision has it."""
    network = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d)
    network.load_state_dict(read_weights(weights).tensors)
    features: nn.Sequential = network.features
    for parameter in (*features[0].parameters(), *features[1].parameters()):
        parameter.requires_grad_(False)
    levels = [level for stride, level in PYRAMID.items() if stride >= finest_stride]
    ends = {str(block): str(number) for number, (block, _) in enumerate(levels)}
    backbone = BackboneWithFPN(features, ends, in_channels_list=[channels for _, channels in levels], out_channels=128)
    sizes = tuple((32 * 2**number,) for number in range(len(levels) + 1))  # the pyramid adds a coarser level
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return FasterRCNN(
        backbone,
        num_classes=classes + 1,
        min_size=320,
        rpn_anchor_generator=anchors,
        box_batch_size_per_image=boxes_taught,
        box_score_thresh=0.001,
    )


def flipped_batches(dataset: DetectionDataset, seed: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Batches without end, each image mirrored or not in both directions, as torchvision's detectors take them."""
    transform = v2.Compose(
        [
            v2.ClampBoundingBoxes(),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        ]
    )
    for epoch in count():
        order = epoch_order(len(dataset), seed, epoch)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            samples = [transform(*plain_sample(dataset, index)) for index in order[start : start + BATCH]]
            yield [image for image, _ in samples], [target for _, target in samples]


def plain_sample(dataset: DetectionDataset, index: int) -> tuple[Tensor, dict[str, Tensor]]:
    """An image and its objects as torchvision's transforms take them; label 0 is background there."""
    image, objects = tv_tensors.Image(dataset.image(index)), dataset.objects(index)
    single = ~objects.crowd
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(objects.boxes_xyxy[single]).float(), format="XYXY", canvas_size=image.shape[-2:]
    )
    return image, {"boxes": boxes, "labels": torch.from_numpy(objects.labels[single]) + 1}


@torch.inference_mode()
def detections_of(model: Any, dataset: DetectionDataset) -> Entries:
    """What Faster R-CNN finds, as COCO result entries."""
    model.eval()
    entries = []
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        (found,) = model([v2.functional.to_dtype(tv_tensors.Image(dataset.image(index)), scale=True)])
        for label, box, score in zip(*(found[key].tolist() for key in ("labels", "boxes", "scores")), strict=True):
            entries.append(result_entry(image_id, dataset.categories[label - 1].id, box, score))
    model.train()
    return entries


def keep(side: str, learned: Learned, test: DetectionDataset, options: argparse.Namespace, wall: float) -> None:
    """Evaluates both sides by the same code, prints it and writes it down."""
    evaluation = evaluate_detections(test.to_coco(), learned.entries, name=test.name, notes=test.notes)
    minutes = learned.curve[-1]["minutes"]
    content = {
        **learned._asdict(),
        "learned_from": options.train_split,
        "training_minutes": minutes,
        "wall_minutes": wall,
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "torch": torch.__version__,
        "evaluation": evaluation.to_json(),
    }
    write_json(options.output / f"{side}.json", content)
    classes = ", ".join(f"{entry.name} {entry.ap:.3f} / {entry.ap50:.3f}" for entry in evaluation.classes)
    print(
        f"{learned.name}: {learned.steps} steps in {minutes:.1f} minutes ({wall:.1f} with calibration and evaluation), "
        f"{learned.parameters / 1e6:.1f} million trainable parameters\n{evaluation.summary()}\nAP / AP50 by class: {classes}",
        flush=True,
    )


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """Loss of each side, and AP of both, over minutes of training."""
    figure = Figure(figsize=(4.4 * (len(results) + 1), 3.4), layout="constrained")
    panels = figure.subplots(1, len(results) + 1)
    for number, result in enumerate(results.values()):
        curve, color = result["curve"], LINE_COLORS[number]
        panels[number].plot([row["minutes"] for row in curve], [row["loss"] for row in curve], color=color)
        panels[number].set(title=result["name"], ylabel="loss", ylim=(0, None))
        seen = [row for row in curve if "AP" in row]
        for name, style in (("AP", "o-"), ("AP50", "o--")):
            points = [row["minutes"] for row in seen], [row[name] for row in seen]
            panels[-1].plot(*points, style, color=color, markersize=3, label=f"{name} {result['name']}")
    panels[-1].set(title="test split", ylabel="average precision", ylim=(0, 1))
    panels[-1].legend(frameon=False, fontsize=7)
    for panel in panels:
        panel.set_xlabel("minutes of training")
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def draw_detections(results: dict[str, Any], test: DetectionDataset, path: Path) -> None:
    """A few test images: the truth and what each side finds above the threshold of its best F1."""
    figure = Figure(figsize=(4.4 * (len(results) + 1), 3.5 * SHOWN), layout="constrained")
    panels = figure.subplots(SHOWN, len(results) + 1, squeeze=False)
    truth = test.to_coco()["annotations"]
    colors = {category.id: color for category, color in zip(test.categories, cycle(LINE_COLORS), strict=False)}
    for row, index in zip(panels, np.linspace(0, len(test) - 1, SHOWN).round().astype(int), strict=True):
        columns = [(f"truth ({test.image_name(index)})", truth)]
        for result in results.values():
            threshold = result["evaluation"]["best_threshold"] or 1.0
            found = [entry for entry in result["entries"] if entry["score"] >= threshold]
            columns.append((f"{result['name']}, scores from {threshold:.2f}", found))
        for panel, (title, entries) in zip(row, columns, strict=True):
            panel.imshow(test.image(index))
            panel.set_title(title, fontsize=9)
            panel.axis("off")
            draw_boxes(panel, colors, [entry for entry in entries if entry["image_id"] == test.image_ids[index]])
    handles = [Patch(color=colors[category.id], label=category.name) for category in test.categories]
    figure.legend(handles=handles, frameon=False, ncols=len(test.categories), loc="outside upper center")
    figure.savefig(path, dpi=110)


def draw_boxes(panel: Axes, colors: dict[int, str], entries: Entries) -> None:
    """Boxes of COCO annotations or results in the colour of their class, with the score where there is one."""
    for entry in entries:
        left, top, width, height = entry["bbox"]
        color = colors[entry["category_id"]]
        panel.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, linewidth=1.2))
        if "score" in entry:
            panel.text(left + 3, top + 3, f"{entry['score']:.2f}", color=color, fontsize=6, va="top")


def show_several(folders: list[Path], test: DetectionDataset) -> None:
    """Prints AP, AP50 and AP75 of each side: the mean over the folders, and each."""
    truth = test.to_coco()
    for side in SIDES:
        files = [folder / f"{side}.json" for folder in folders if (folder / f"{side}.json").is_file()]
        runs = [json.loads(file.read_text(encoding="utf-8"))["entries"] for file in files]
        for name, overlap in (("as they are", None), (f"suppressed at {NMS}", NMS)):
            figures = [evaluate_detections(truth, suppressed(entries, overlap)).figures for entries in runs]
            columns = {key: [float(each[key] or 0) for each in figures] for key in ("AP", "AP50", "AP75")}
            shown = "   ".join(
                f"{key} {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"
                for key, values in columns.items()
                if values
            )
            print(f"{side}, {name}: {shown}")


def suppressed(entries: Entries, overlap: float | None) -> Entries:
    """Without those that repeat a better one of their class and image by more than an IoU."""
    if overlap is None:
        return entries
    kept: Entries = []
    ordered = sorted(entries, key=lambda entry: entry["image_id"])
    for _, group in groupby(ordered, key=lambda entry: entry["image_id"]):
        found = sorted(group, key=lambda entry: -entry["score"])
        boxes = np.array([entry["bbox"] for entry in found], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([entry["category_id"] for entry in found])
        kept += [entry for entry, keep in zip(found, kept_by_nms(boxes, classes, overlap), strict=True) if keep]
    return kept


def training_option(text: str) -> tuple[str, Any]:
    """`name=value`, the value in JSON or as plain text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def command_line() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--weights", required=True, help="MobileNetV2's ImageNet weights in torchvision's layout")
    parser.add_argument("--variant", default="light-detr-mobilenetv2", help="of detrkit, with that backbone")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each side")
    parser.add_argument("--steps", type=int, help="instead of minutes; without calibration")
    parser.add_argument("--only", choices=SIDES, help="run one side")
    parser.add_argument("--option", type=training_option, action="append", default=[], help="of our training")
    parser.add_argument("--train-split", default="trainval", help="what both sides learn from")
    parser.add_argument("--test-split", default="test", help="what both sides are evaluated on")
    parser.add_argument("--evaluations", type=int, default=5, help="points of the AP curve; their time is not counted")
    parser.add_argument("--finest-stride", type=int, choices=list(PYRAMID), default=4, help="of Faster R-CNN's pyramid")
    parser.add_argument("--boxes-taught", type=int, default=128, help="an image, to Faster R-CNN's second stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/blood_cells"))
    parser.add_argument("--several", type=Path, nargs="+", metavar="FOLDER", help="outputs of earlier runs to compare")
    options = parser.parse_args()
    if options.only != "theirs" and RunFolder(options.output / "run").state.exists():
        parser.error(f"{options.output} holds a run already: choose another --output")
    return options


def main() -> None:
    """Trains, evaluates and draws."""
    options = command_line()
    keep_freed_memory()  # as commands do; both sides gain by it
    torch.set_num_threads(options.threads)
    test = detrkit.open_dataset(options.data, options.test_split)
    if options.several:
        show_several(options.several, test)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for side, run in zip(SIDES, (run_ours, run_theirs), strict=True):
        if options.only in (None, side):
            began = time.perf_counter()
            learned = run(options, test)
            keep(side, learned, test, options, (time.perf_counter() - began) / 60)
    files = {side: options.output / f"{side}.json" for side in SIDES}
    results = {side: json.loads(file.read_text(encoding="utf-8")) for side, file in files.items() if file.is_file()}
    short = {side: {**result, "entries": len(result["entries"])} for side, result in results.items()}
    write_json(options.output / "figures.json", short)
    draw_curves(results, options.output / "curves.png")
    draw_detections(results, test, options.output / "detections.png")


if __name__ == "__main__":
    main()
