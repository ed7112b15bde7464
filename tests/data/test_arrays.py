"""Arrays and tensors become the picture that they hold, whatever their type and the order of their axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detrkit.data.arrays import picture_of_array

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
OPACITY = np.random.default_rng(1).integers(0, 256, (5, 7, 1), dtype=np.uint8)
GREY = PIXELS[..., :1]


@pytest.mark.parametrize(
    "form",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16),
        PIXELS / 255 * 1.0005,  # as resizing overshoots
        np.concatenate([PIXELS, OPACITY], axis=2),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS),
        (torch.from_numpy(PIXELS) / 255).permute(2, 0, 1).requires_grad_(),
    ],
)
def test_every_form_of_a_colour_picture(form: np.ndarray | torch.Tensor) -> None:
    np.testing.assert_array_equal(np.asarray(picture_of_array(form)), PIXELS)


@pytest.mark.parametrize("form", [GREY, GREY[..., 0], GREY.transpose(2, 0, 1), torch.from_numpy(GREY[..., 0])])
def test_every_form_of_a_grey_picture(form: np.ndarray | torch.Tensor) -> None:
    np.testing.assert_array_equal(np.asarray(picture_of_array(form)), np.repeat(GREY, 3, axis=2))


def test_of_two_axes_that_could_be_channels_an_array_takes_the_last_and_a_tensor_the_first() -> None:
    pixels = PIXELS[:3]
    np.testing.assert_array_equal(np.asarray(picture_of_array(pixels)), pixels)
    np.testing.assert_array_equal(np.asarray(picture_of_array(torch.from_numpy(pixels))), pixels.transpose(1, 2, 0))
