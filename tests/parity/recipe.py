"""The weights and images that the authors' reference values were computed with: functions of a name and a shape, so nothing is stored.

The rule is the one that stands beside the reference values, written again for checkouts without them; a test holds the two together.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Scales = Sequence[tuple[str, float]]


def gaussian(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal numbers that depend on the name alone; nobody may change them, since those of backbones, alike in most cases, are kept."""
    return (_kept if "backbone" in name else _drawn)(name, tuple(shape))


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


@functools.lru_cache(maxsize=1000)
def _kept(name: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = _drawn(name, shape)
    numbers.setflags(write=False)
    return numbers


def weights(
    shapes: Mapping[str, Sequence[int]],
    scales: Scales,
    aliases: Mapping[str, str],
    fixed: Mapping[str, float | Sequence[float]] | None = None,
) -> dict[str, Tensor]:
    """Weights by the authors' keys, float64 with values that float32 holds exactly.

    Args:
        shapes: of every key.
        scales: factors of the values, by a part of the key.
        aliases: keys that share the tensor of another one.
        fixed: constants of the authors' constructor: a number fills the tensor, several are its values row by row.
    """
    found = {}
    for key, shape in shapes.items():
        name = aliases.get(key, key)
        if fixed is not None and name in fixed:
            constant = _as_float32(np.asarray(fixed[name]))
            values = np.full(shape, constant) if constant.ndim == 0 else constant.reshape(tuple(shape))
        else:
            values = _weight(name, shape, scales)
        found[key] = torch.from_numpy(values)
    return found


def image(index: int, height: int, width: int) -> Tensor:
    """A smooth normalised image (3, height, width) in float64."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    planes = []
    for channel in range(3):
        period_y, period_x, phase_y, phase_x = gaussian(f"image{index}.{channel}", (4,))
        planes.append(np.sin(y / (7 + 3 * abs(period_y)) + phase_y) + np.cos(x / (9 + 4 * abs(period_x)) + phase_x))
    noisy = np.stack(planes) + 0.2 * gaussian(f"image{index}.noise", (3, height, width))
    return torch.from_numpy(_as_float32(noisy))


def norm_and_probe(key: str, gradient: Tensor) -> tuple[float, float]:
    """A gradient's norm, and its component along a direction that the key fixes."""
    values = gradient.detach().double().contiguous().numpy()
    direction = gaussian(f"probe {key}", values.shape)
    return float(np.linalg.norm(values)), float((values * direction).sum() / np.linalg.norm(direction))


def _weight(key: str, shape: Sequence[int], scales: Scales) -> np.ndarray:
    if len(shape) == 0:  # counters
        return np.zeros(())
    noise = gaussian(key, shape)
    if key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(noise)
    elif key.endswith("running_mean"):
        value = 0.1 * noise
    elif len(shape) == 1:
        center = 0.5 if "backbone" in key else 1.0
        value = center + 0.05 * noise if key.endswith("weight") else 0.1 * noise
    elif len(shape) == 2 and "embed" in key and "bbox" not in key and "class" not in key:
        value = noise
    else:
        gain = 2.0 if len(shape) == 4 else 1.0
        value = noise * math.sqrt(gain / math.prod(shape[1:]))
    return _as_float32(value) * math.prod(factor for part, factor in scales if part in key)


def _as_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)
