"""What each command loads: nobody waits for what is not used, least of all to be told of a wrong path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import detrkit

HEAVY = (
    "torch", "torchvision", "lightning", "torchmetrics", "tensorboard", "matplotlib", "supervision", "scipy", "numba", "faster_coco_eval",
    "numpy", "PIL", "safetensors", "timm", "huggingface_hub",
)  # fmt: skip
NONE: tuple[str, ...] = ()
FILES = ("numpy", "PIL")  # of pictures and annotations
MODEL = ("torch", "scipy", "supervision", "safetensors", *FILES)
# The command line, and all of the above that it may load.
COMMANDS = {
    "import": ("", NONE),
    "help": ("--help", NONE),
    "help of train": ("train --help", NONE),
    "help of compare": ("compare --help", NONE),
    "help of convert": ("convert --help", NONE),
    "version": ("--version", NONE),
    "completion of a variant": ("__complete train li", NONE),
    "models": ("models", NONE),
    "models as JSON": ("models --json", NONE),
    "help of convert-weights": ("convert-weights --help", NONE),
    "convert-weights: no such file": ("convert-weights missing.pth x.safetensors", FILES),
    "predict: no such file": ("predict missing.safetensors train/0001.png", FILES),
    "predict: no such picture": ("predict MODEL missing.png", FILES),
    "predict: no such variant": ("predict MODEL train --variant detr-r5", FILES),
    "help of explain": ("explain --help", NONE),
    "explain: no such file": ("explain missing.safetensors train/0001.png", FILES),
    "explain: no such picture": ("explain MODEL missing.png", FILES),
    "explain: no such data": ("explain MODEL --data missing", FILES),
    "train: no such variant": ("train detr-r5 .", NONE),
    "train: no such data": ("train light-detr-compact missing", NONE),
    "train: no such run": ("train --resume missing", NONE),
    "train: no such configuration": ("train --config missing.yaml", NONE),
    "compare: no such variant": ("compare detr-compact detr-r5 --data . --steps 2", FILES),
    "compare: no such data": ("compare detr-compact MODEL --data missing --steps 2", FILES),
    "config: no such variant": ("config detr-r5", NONE),
    "report: no such run": ("report missing", NONE),
    "convert: no such data": ("convert missing --to yolo --output yolo", NONE),
    "evaluate: no such data": ("evaluate MODEL --data missing", FILES),
    "models: no such variant": ("models detr-r5", NONE),
    "inspect: no such data": ("inspect missing", NONE),
    "inspect: no such variant": ("inspect . --variant detr-r5", ("scipy", *FILES)),
    "inspect, quick": ("inspect . --quick", ("scipy", *FILES)),
    "evaluate: no such file": ("evaluate missing.safetensors --data .", FILES),
    "evaluate: no such number of images": ("evaluate MODEL --data . --batch-size 0", ("numpy",)),
    "evaluate: no such option of a result file": ("evaluate found.json --data x.json --device cpu", ("numpy",)),
    "convert": ("convert . --to yolo --output yolo", FILES),
    "predict": ("predict MODEL train/0001.png --output found", MODEL),
    "predict with MobileNetV2 and deformable attention": ("predict LIGHT train/0001.png --output found", MODEL),
    "evaluate": ("evaluate MODEL --data .", ("faster_coco_eval", *MODEL)),
}
CODE = """
import sys
from detrkit.__main__ import main
try:
    if sys.argv[1:]:
        main(sys.argv[1:])
except SystemExit as end:
    print("CODE", end.code)
print("LOADED", *[name for name in HEAVY if name in sys.modules])
"""


@pytest.fixture(scope="module")
def light_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the kind that most users train first."""
    model = detrkit.build(
        "light-detr-mobilenetv2", classes=["digit"], preprocessing=detrkit.Preprocessing(64, 64), queries=6
    )
    return detrkit.save(model, tmp_path_factory.mktemp("light") / "light.safetensors")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loads_what_it_uses(name: str, checkpoint: Path, light_checkpoint: Path, data: Path) -> None:
    line, allowed = COMMANDS[name]
    models = {"MODEL": str(checkpoint), "LIGHT": str(light_checkpoint)}
    arguments = [models.get(word, word) for word in line.split()]
    result = subprocess.run(
        [sys.executable, "-c", CODE.replace("HEAVY", repr(HEAVY)), *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=data,
    )
    assert ("CODE 2" in result.stdout) == ("no such" in name), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    loaded = result.stdout.rpartition("LOADED")[2].split()
    assert set(loaded) <= set(allowed)
