"""Options that people know from other tools, and what they are here."""

from __future__ import annotations

_SIDES = "--short-side and --long-side"

# For each command: the option as other tools write it, and what to give instead; a sentence where there is nothing to give.
COUNTERPARTS: dict[str, dict[str, str]] = {
    "train": {
        **dict.fromkeys(("--imgsz", "--img-size", "--img", "--image-size", "--input-size", "--resolution"), _SIDES),
        **dict.fromkeys(("--batch", "--batchsize", "--train-batch-size"), "--batch-size"),
        **dict.fromkeys(("--lr0", "--learning-rate", "--base-lr"), "--lr"),
        **dict.fromkeys(("--lr-backbone", "--backbone-learning-rate"), "--backbone-lr"),
        **dict.fromkeys(("--pretrained", "--pretrain", "--load-from", "--checkpoint", "--ckpt"), "--weights"),
        **dict.fromkeys(("--project", "--name", "--save-dir", "--work-dir", "--output-dir"), "--output"),
        **dict.fromkeys(("--model", "--cfg", "--arch"), "VARIANT, a name that `detrkit models` lists"),
        **dict.fromkeys(("--num-workers", "--dataloader-num-workers"), "--workers"),
        **dict.fromkeys(("--amp", "--fp16", "--half", "--bf16"), "--precision bf16"),
        **dict.fromkeys(("--max-steps", "--iterations", "--max-iters"), "--steps"),
        **dict.fromkeys(("--fliplr", "--hflip"), "--flip"),
        **dict.fromkeys(("--flipud", "--vflip"), "--vertical-flip"),
        **dict.fromkeys(("--augment", "--aug", "--mosaic", "--copy-paste", "--mixup", "--hsv-h"), "--augmentation"),
        **dict.fromkeys(("--logger", "--log-to", "--report-to", "--wandb", "--mlflow"), "--loggers wandb,mlflow"),
        **dict.fromkeys(("--dataset", "--data-dir", "--dataset-dir", "--coco-path"), "--data"),
        **dict.fromkeys(("--num-queries", "--queries"), "--settings.queries"),
        **dict.fromkeys(("--clip-max-norm", "--max-grad-norm", "--clip-grad"), "--gradient-clip"),
        **dict.fromkeys(("--grad-accum-steps", "--gradient-accumulation-steps", "--accum-iter"), "--accumulate"),
        **dict.fromkeys(("--early-stopping", "--early-stopping-patience"), "--patience"),
        **dict.fromkeys(("--use-ema", "--model-ema", "--ema-decay"), "--ema"),
        **dict.fromkeys(("--max-time", "--time"), "--minutes"),
        "--cos-lr": "--schedule cosine",
        "--layer-wise-lr-decay": "--layer-decay",
        "--num-classes": "nothing is needed: the number of classes follows from the data set",
        "--nc": "nothing is needed: the number of classes follows from the data set",
    },
    "predict": {
        **dict.fromkeys(("--conf", "--conf-thres", "--conf-threshold", "--score-thr"), "--threshold"),
        **dict.fromkeys(("--iou", "--iou-thres", "--nms-thres"), "--nms"),
        **dict.fromkeys(("--source", "--input", "--images", "--image"), "IMAGES, without a name"),
        **dict.fromkeys(("--weights", "--model"), "CHECKPOINT, without a name"),
        **dict.fromkeys(("--save-dir", "--project", "--name", "--output-dir", "--out-dir"), "--output"),
        **dict.fromkeys(("--batch", "--batchsize"), "--batch-size"),
        **dict.fromkeys(("--imgsz", "--img-size"), "nothing is needed: the checkpoint says how large images are made"),
        "--save-txt": "--format yolo",
        "--save-json": "--format json",
        "--save": "--format images",
    },
    "evaluate": {
        **dict.fromkeys(("--weights", "--model"), "CHECKPOINT, without a name"),
        **dict.fromkeys(("--batch", "--batchsize"), "--batch-size"),
        **dict.fromkeys(("--num-workers",), "--workers"),
        **dict.fromkeys(("--dataset", "--data-dir", "--coco-path"), "--data"),
        **dict.fromkeys(("--imgsz", "--img-size"), "nothing is needed: the checkpoint says how large images are made"),
        "--max-det": "--max-detections",
        "--save-json": "--results",
    },
    "convert": {"--format": "--to", "--out": "--output", "--output-dir": "--output"},
    "inspect": {"--data": "PATH, without a name", "--model": "--variant"},
    "demo": {"--epochs": "--steps", "--project": "--output", "--name": "--output"},
}


def counterpart(command: str, option: str) -> str | None:
    """What an option of another tool is here, to follow "unknown option --x: "; None if it is not known.

    Args:
        command: such as "train".
        option: as it was written; underscores stand for hyphens.
    """
    # What is compared is trained, too.
    found = COUNTERPARTS.get("train" if command == "compare" else command, {}).get(
        "--" + option.lower().lstrip("-").replace("_", "-")
    )
    return found if found is None or found.startswith("nothing") else f"here it is {found}"
