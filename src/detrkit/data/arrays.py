"""Pictures that are arrays or tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.errors import DataError

if TYPE_CHECKING:
    import torch

_CHANNELS = (1, 3, 4)  # grey, RGB, RGB and opacity
_BEYOND = 1e-3  # of the range 0..1, which resizing may exceed by a little


def picture_of_array(array: NDArray[Any] | torch.Tensor) -> Image.Image:
    """An array or tensor as an RGB picture.

    Args:
        array: (H, W), (H, W, C) or (C, H, W) with 1 channel (grey), 3 (RGB) or 4 (RGB and opacity, which is left out); uint8 in 0..255, or
            floats in 0..1. Where both the first and the last axis could be channels, it is the last of an array and the first of a tensor.

    Raises:
        DataError: another shape or type, or values beyond the range.
    """
    is_tensor = not isinstance(array, np.ndarray)
    name = f"{'A tensor' if is_tensor else 'An array'} {tuple(array.shape)} of {array.dtype}"
    values = array if isinstance(array, np.ndarray) else _as_numpy(array)
    axis = _channel_axis(values.shape, first=is_tensor)
    is_float = np.issubdtype(values.dtype, np.floating)
    if axis is None or values.size == 0 or not (is_float or values.dtype == np.uint8):
        raise DataError(
            f"{name} is not an image: give (height, width), (height, width, 3) or (3, height, width) in RGB, uint8 in 0..255 or floats in 0..1."
        )
    if is_float:
        values = _as_bytes(values, name)
    if values.ndim == 3:
        values = np.moveaxis(values, axis, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values[..., :3]
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _channel_axis(shape: tuple[int, ...], *, first: bool) -> int | None:
    """Which axis holds channels; None for a shape that is no picture's. A grey picture without such an axis gets an arbitrary one."""
    if len(shape) == 2:
        return -1
    axes = (0, -1) if first else (-1, 0)
    return next((axis for axis in axes if len(shape) == 3 and shape[axis] in _CHANNELS), None)


def _as_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Floats in 0..1 as whole numbers in 0..255."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -_BEYOND and high <= 1 + _BEYOND):  # also where one is NaN
        raise DataError(
            f"{name} has values from {low:.4g} to {high:.4g}, and floats must be in 0..1: divide by the highest possible value, or give uint8."
        )
    whole: NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return whole
