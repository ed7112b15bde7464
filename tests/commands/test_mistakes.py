"""What commands answer to a command line that cannot be right: one sentence that names things as they are written there."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands.running import refusal
from cyclopts import App

from detrkit.commands.app import app
from detrkit.commands.other_tools import COUNTERPARTS, counterpart

TRAIN = ("train", "detr-compact", "--data", "digits")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*TRAIN, "--imgsz", "640"), "unknown option --imgsz: here it is --short-side and --long-side"),
        ((*TRAIN, "--img_size=640"), "unknown option --img_size: here it is --short-side and --long-side"),
        ((*TRAIN, "--pretrained", "x.pth"), "unknown option --pretrained: here it is --weights"),
        ((*TRAIN, "--weights", "imagenet"), "--weights must be coco, backbone, none, or a file or run folder that exists, not 'imagenet'"),
        ((*TRAIN, "--model", "x"), "unknown option --model: here it is VARIANT, a name that `detrkit models` lists"),
        ((*TRAIN, "--epoch", "3"), "unknown option --epoch: did you mean --epochs? `detrkit train --help` lists all options"),
        ((*TRAIN, "--eval", "3"), "unknown option --eval: did you mean --evaluate-every? `detrkit train --help` lists all options"),
        ((*TRAIN, "--zzz", "3"), "unknown option --zzz: `detrkit train --help` lists all options"),
        (("predict", "a", "b", "--conf", "0.3"), "unknown option --conf: here it is --threshold"),
        (("predict", "a", "--source", "b"), "unknown option --source: here it is IMAGES, without a name"),
        (("evaluate", "--weights", "a"), "unknown option --weights: here it is CHECKPOINT, without a name"),
        (("trian",), "there is no command 'trian': did you mean 'train'?"),
        ((*TRAIN, "--epochs", "1.5"), "--epochs must be a whole number, not '1.5'"),
        ((*TRAIN, "--epochs", "zero"), "--epochs must be a whole number, not 'zero'"),
        (("demo", "--steps", "2.7"), "--steps must be a whole number, not '2.7'"),
        (("evaluate", "a", "--data", "b", "--batch-size", "1.5"), "--batch-size must be a whole number, not '1.5'"),
        (("predict", "a", "b", "--slice", "99.9"), "--slice must be a whole number, not '99.9'"),
        ((*TRAIN, "--lr", "fast"), "--lr must be a number, not 'fast'"),
        ((*TRAIN, "--schedule", "linear"), "--schedule must be step, cosine or flat-cosine, not 'linear'"),
        ((*TRAIN, "--flip"), "--flip needs a value: `detrkit train --help` tells what to give"),
        ((*TRAIN, "--crop", "3"), "--crop takes no value, so nothing uses '3': `detrkit train --help` tells what to give"),
        (
            ("doctor", "x"),
            "nothing in `detrkit doctor` uses 'x': leave it out, or give it to an option; `detrkit doctor --help` tells what to give",
        ),
        ((*TRAIN, "--settings", "10"), "--settings needs a name and a value, such as --settings.queries 100, not '10'"),
        ((*TRAIN, "--settings", "queries=0"), "--settings.queries must be at least 1, not 0"),
        ((*TRAIN, "--settings.attention-heads", "0"), "--settings.attention-heads must be at least 1, not 0"),
        ((*TRAIN, "--short-side", "0"), "--short-side must be above 0, not 0"),
        ((*TRAIN, "--flip", "2.0"), "--flip is a probability, from 0 to 1, not 2.0"),
        (
            (*TRAIN, "--batch-size", "6", "--accumulate", "4"),
            "a batch of 6 images cannot be split into 4 equal pieces: change --batch-size or --accumulate",
        ),
        (("train", "yolov8", "--data", "digits"), "there is no variant 'yolov8': `detrkit models` lists all"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)  # fmt: skip
def test_the_sentence(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    assert refusal(*arguments, folder=tmp_path) == f"detrkit: {sentence}"


def test_whole_numbers_may_have_a_point(tmp_path: Path) -> None:
    assert "--short-side must be above 0, not 0" in refusal(
        *TRAIN, "--epochs", "3.0", "--short-side", 0, folder=tmp_path
    )


@pytest.mark.parametrize("command", COUNTERPARTS)
def test_counterparts_exist_and_take_no_name_of_the_command(command: str) -> None:
    subcommand = app[command]
    assert isinstance(subcommand, App)
    own = {name for argument in subcommand.assemble_argument_collection() for name in argument.names}
    for theirs in COUNTERPARTS[command]:
        assert theirs not in own
        words = (counterpart(command, theirs) or "").split()
        for option in (word.strip(",") for word in words if word.startswith("--")):
            assert option.partition(".")[0] in own | {"--nms"}, (theirs, option)
