"""A cell of a feature map is padding if the pixel at which it begins is padding."""

from __future__ import annotations

import pytest
import torch

from detrkit.layers.padding import shrink_padding


@pytest.mark.parametrize(
    ("height", "width", "h", "w"), [(64, 96, 2, 3), (70, 51, 3, 2), (799, 1066, 25, 34), (7, 5, 7, 5)]
)
def test_shrunk_padding_is_that_of_the_nearest_pixel(height: int, width: int, h: int, w: int) -> None:
    padding = torch.rand(2, height, width) < 0.5
    shrunk = shrink_padding(padding, torch.zeros(2, 8, h, w))
    assert shrunk is not None
    assert shrunk.dtype == torch.bool
    expected = [
        [[bool(image[row * height // h, column * width // w]) for column in range(w)] for row in range(h)]
        for image in padding
    ]
    assert shrunk.tolist() == expected


def test_a_cell_is_padding_if_its_first_pixel_is() -> None:
    padding = torch.zeros(1, 64, 64, dtype=torch.bool)
    padding[:, :, 33:] = True  # the second of two cells begins at pixel 32, which is image
    assert shrink_padding(padding, torch.zeros(1, 8, 2, 2)).tolist() == [[[False, False]] * 2]
    padding[:, :, 32:] = True
    assert shrink_padding(padding, torch.zeros(1, 8, 2, 2)).tolist() == [[[False, True]] * 2]


def test_no_padding_stays_none() -> None:
    assert shrink_padding(None, torch.zeros(1, 8, 2, 2)) is None
