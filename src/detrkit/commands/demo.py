"""`detrkit demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

VARIANT = "light-detr-compact"


def demo(*, steps: int = 1600, output: Path = Path("runs/demo"), seed: int = 0, device: str = "auto") -> None:
    """Train a small detector from scratch in minutes, and show what it learned.

    The images are real handwritten digits over crops of two photographs, generated when needed; nothing is downloaded. An earlier demo in
    the same folder is replaced.

    Args:
        steps: optimizer steps; the default takes about six minutes on two processor cores.
        output: folder for the checkpoint, metrics, curves, pictures and report.
        seed: seed of weights, order, augmentation, dropout and noise.
        device: auto, cpu, cuda, cuda:1 or mps.
    """
    from detrkit.errors import ConfigurationError
    from detrkit.files import expanded
    from detrkit.terminal import terminal
    from detrkit.training import TrainingOptions, train
    from detrkit.training.options import resolve
    from detrkit.training.processes import processes_of
    from detrkit.training.run_folder import remove_earlier_demo

    count = processes_of(os.environ).count
    if count > 1:
        raise ConfigurationError(
            f"the demo trains in one process, but {count} were started: start it without torchrun or srun"
        )
    console = terminal()
    output = expanded(output)
    console.print(
        "A small two-stage detector learns to find handwritten digits, from random weights.",
    )
    options: dict[str, Any] = {
        "output": str(output),
        "steps": steps,
        "seed": seed,
        "device": device,
        "evaluate_every": 4,
        # A mirrored 2 is not a 2, and half a 9 may look like a 0.
        "flip": 0.0,
        "crop": False,
        "multi_scale": False,
    }
    resolve(TrainingOptions(VARIANT, "digits", **options))  # refuses invalid options before anything is replaced
    remove_earlier_demo(output)
    result = train(VARIANT, "digits", console=console, **options)
    assert result.evaluation is not None
    figures = result.evaluation.figures
    console.print(
        f"\nOn {result.evaluation.images} images that were not used in training: AP50 {figures['AP50']:.3f}, AP {figures['AP']:.3f}.\n"
        f"Report     {output / 'report.html'} (open it in a browser)\n"
        f"Pictures   {output / 'pictures'}\n"
        f"Figures    {output / 'metrics.json'}\n"
        f"Checkpoint {result.best}\n"
        f"Next       detrkit evaluate {result.best} --data digits\n"
        "Your data  detrkit train light-detr-mobilenetv2 --data YOUR_FOLDER",
        soft_wrap=True,
    )
