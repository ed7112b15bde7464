"""Sine codes against a loop over cells and channels written from the paper's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detrkit.layers.position_encoding import CellCenterEncoding, SinePositionEncoding, reference_code, sine_code


def code_by_loop(inside: list[list[bool]], width: int, temperature: float, shift: float) -> Tensor:
    """(D, h, w) code of one image in Python's own floats; `inside` is True where the image is."""
    height, columns, half = len(inside), len(inside[0]), width // 2
    code = torch.zeros(width, height, columns, dtype=torch.float64)
    for row in range(height):
        for column in range(columns):
            above = sum(inside[other][column] for other in range(row + 1))
            in_column = sum(inside[other][column] for other in range(height))
            left = sum(inside[row][other] for other in range(column + 1))
            in_row = sum(inside[row])
            y = (above - shift) / (in_column + 1e-6) * 2 * math.pi
            x = (left - shift) / (in_row + 1e-6) * 2 * math.pi
            for axis, value in enumerate((y, x)):
                for channel in range(half):
                    angle = value / temperature ** (2 * (channel // 2) / half)
                    wave = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
                    code[axis * half + channel, row, column] = wave
    return code


def rectangle(height: int, width: int, inside_height: int, inside_width: int) -> Tensor:
    """(h, w) padding of an image that fills the upper left."""
    padding = torch.ones(height, width, dtype=torch.bool)
    padding[:inside_height, :inside_width] = False
    return padding


@pytest.mark.parametrize(("temperature", "shift"), [(10000.0, 0.0), (20.0, 0.0), (10000.0, 0.5)])
def test_every_cell_without_padding(temperature: float, shift: float) -> None:
    encoding = SinePositionEncoding(width=16, temperature=temperature, shift=shift)
    found = encoding(torch.zeros(2, 7, 5, 3), None)
    wanted = code_by_loop([[True] * 3] * 5, 16, temperature, shift)
    assert found.shape == (2, 16, 5, 3)
    for image in found:
        torch.testing.assert_close(image.double(), wanted, rtol=0, atol=1e-5)


def test_every_cell_with_padding() -> None:
    paddings = [rectangle(6, 5, 6, 5), rectangle(6, 5, 4, 5), rectangle(6, 5, 6, 2), rectangle(6, 5, 3, 3)]
    found = SinePositionEncoding(width=12)(torch.zeros(4, 12, 6, 5), torch.stack(paddings))
    for code, padding in zip(found, paddings, strict=True):
        wanted = code_by_loop((~padding).tolist(), 12, 10000.0, 0.0)
        torch.testing.assert_close(code.double(), wanted, rtol=0, atol=1e-5)


def test_places_run_from_one_step_to_the_full_turn_and_stay_there_behind_the_image() -> None:
    found = SinePositionEncoding(width=4)(torch.zeros(1, 4, 6, 3), rectangle(6, 3, 4, 2)[None])[0]
    y = [math.sin((row + 1) / 4 * 2 * math.pi) for row in range(4)] + [0.0, 0.0]
    torch.testing.assert_close(found[0, :, 0], torch.tensor(y), rtol=0, atol=1e-5)
    x = [math.sin(math.pi), 0.0, 0.0]
    torch.testing.assert_close(found[2, 0], torch.tensor(x), rtol=0, atol=1e-5)


def test_rows_and_columns_of_padding_alone_stand_at_zero() -> None:
    found = SinePositionEncoding(width=8)(
        torch.zeros(2, 8, 4, 4), torch.stack([rectangle(4, 4, 2, 2), rectangle(4, 4, 0, 0)])
    )
    zero = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert torch.equal(found[0, 4:, 3, 0], zero)  # x in a row without image
    assert torch.equal(found[0, :4, 0, 3], zero)  # y in a column without image
    assert torch.equal(found[1], zero.repeat(2)[:, None, None].expand(8, 4, 4))
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_codes_are_computed_in_float32_whatever_the_features(dtype: torch.dtype) -> None:
    encoding, padding = SinePositionEncoding(width=16), rectangle(9, 11, 7, 10)[None]
    exact = encoding(torch.zeros(1, 16, 9, 11), padding)
    found = encoding.to(dtype)(torch.zeros(1, 16, 9, 11, dtype=dtype), padding)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))
    whole = encoding(torch.zeros(1, 16, 9, 11), None)
    torch.testing.assert_close(encoding(torch.zeros(1, 16, 9, 11, dtype=dtype), None), whole.to(dtype))


def test_an_image_that_fills_the_batch_needs_no_mask() -> None:
    encoding = SinePositionEncoding(width=16)
    features = torch.zeros(3, 16, 5, 4)
    torch.testing.assert_close(
        encoding(features, None), encoding(features, torch.zeros(3, 5, 4, dtype=torch.bool)), atol=1e-6, rtol=0
    )


def test_papers_may_normalise_otherwise() -> None:
    class Cells(SinePositionEncoding):
        def angles(self, inside: Tensor, dim: int) -> Tensor:
            return inside.cumsum(dim)

    found = Cells(width=4)(torch.zeros(1, 4, 3, 2), None)[0]
    rows, columns = torch.arange(1.0, 4.0)[:, None].expand(3, 2), torch.arange(1.0, 3.0).expand(3, 2)
    torch.testing.assert_close(found, torch.stack([rows.sin(), rows.cos(), columns.sin(), columns.cos()]))


def test_sine_code_of_single_values() -> None:
    found = sine_code(torch.tensor([[0.0], [1.5]]), channels=4, temperature=100.0)
    assert found.shape == (2, 1, 4)
    assert found[0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    wanted = [math.sin(1.5), math.cos(1.5), math.sin(0.15), math.cos(0.15)]
    torch.testing.assert_close(found[1, 0], torch.tensor(wanted))


@pytest.mark.parametrize(("coordinates", "order"), [(2, (1, 0)), (4, (1, 0, 2, 3))], ids=["points", "boxes"])
def test_the_code_of_a_reference_is_y_then_x_then_width_then_height(coordinates: int, order: tuple[int, ...]) -> None:
    boxes = [[0.1, 0.7, 0.3, 0.9], [0.25, 0.5, 0.0, 1.0]]
    references = torch.tensor(boxes, dtype=torch.float64)[None, :, :coordinates]
    found = reference_code(references, width=12)
    assert found.shape == (1, 2, 6 * coordinates)  # half the width for each coordinate
    for code, box in zip(found[0], boxes, strict=True):
        waves = []
        for place in order:
            for pair in range(3):
                angle = box[place] * 2 * math.pi / 10000 ** (2 * pair / 6)
                waves += [math.sin(angle), math.cos(angle)]
        torch.testing.assert_close(code, torch.tensor(waves, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_code_of_a_reference_is_float32_or_better(dtype: torch.dtype) -> None:
    references = torch.tensor([[[0.25, 0.5, 0.125, 0.75]]], dtype=dtype)  # which half precision has exactly
    found = reference_code(references, width=8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, reference_code(references.float(), width=8), rtol=0, atol=0.02)


def test_the_centers_of_cells_without_padding_are_the_same_in_either_order() -> None:
    found = CellCenterEncoding(width=16)(torch.zeros(2, 7, 5, 3), None)
    wanted = code_by_loop([[True] * 3] * 5, 16, 10000.0, 0.5)
    for image in found:
        torch.testing.assert_close(image.double(), wanted, rtol=0, atol=1e-5)


def test_behind_padding_the_order_of_operations_counts() -> None:
    """Half a cell is taken off before the sum of the image's cells is put together again, with a millionth more."""
    padding = rectangle(4, 5, 3, 2)
    angles = CellCenterEncoding(width=4).angles((~padding)[None].float(), 2)[0]
    inside = torch.tensor([0.5 / 2, 1.5 / 2, 1.5 / 2, 1.5 / 2, 1.5 / 2]) * 2 * math.pi
    torch.testing.assert_close(angles[:3], inside.expand(3, -1), rtol=1e-5, atol=0)
    # In a row of padding alone all sums are zero, and what they are divided by is (0 - 0.5 + 1e-6) + 0.5 in float32.
    divisor = (torch.tensor(-0.5) + 1e-6) + 0.5
    assert divisor.item() == pytest.approx(1e-6, rel=0.1)
    torch.testing.assert_close(angles[3], (-0.5 / divisor * 2 * math.pi).expand(5))
    rows = CellCenterEncoding(width=4).angles((~padding)[None].float(), 1)[0]
    torch.testing.assert_close(rows[:, 0], torch.tensor([0.5, 1.5, 2.5, 2.5]) / 3 * 2 * math.pi, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows[:, 4], (-0.5 / divisor * 2 * math.pi).expand(4))
