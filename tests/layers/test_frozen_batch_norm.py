"""Frozen batch norm, alone and folded into a convolution, against torch's own batch norm in eval mode."""

from __future__ import annotations

import pytest
import torch
from support import kept_tensors
from torch import nn

from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d, normalized_convolution


def norms(channels: int) -> tuple[FrozenBatchNorm2d, nn.BatchNorm2d]:
    """Ours and torch's with the same random scale, shift and statistics, in float64."""
    theirs = nn.BatchNorm2d(channels, dtype=torch.float64).eval()
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    nn.init.normal_(theirs.running_mean)
    nn.init.uniform_(theirs.running_var, 1e-6, 2.0)
    ours = FrozenBatchNorm2d(channels).double()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name != "num_batches_tracked"})
    return ours, theirs


def test_alone_in_both_modes() -> None:
    ours, theirs = norms(5)
    values = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    for training in (True, False):
        before = {name: value.clone() for name, value in ours.state_dict().items()}
        torch.testing.assert_close(ours.train(training)(values), theirs(values))
        assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_nothing_in_it_trains() -> None:
    ours, _ = norms(5)
    assert list(ours.parameters()) == []
    assert sorted(ours.state_dict()) == ["bias", "running_mean", "running_var", "weight"]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=["plain", "dilated", "grouped", "shortcut"],
)
def test_folded_values_and_gradients(options: dict[str, int]) -> None:
    ours, theirs = norms(6)
    convolution = nn.Conv2d(4, 6, bias=False, dtype=torch.float64, **options)
    values = torch.randn(2, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    folded, separate = normalized_convolution(values, convolution, ours), theirs(convolution(values))
    torch.testing.assert_close(folded, separate)

    weights = torch.randn_like(folded)
    gradients = [
        torch.autograd.grad((result * weights).sum(), (values, convolution.weight)) for result in (folded, separate)
    ]
    torch.testing.assert_close(*gradients)


def test_a_norm_that_trains_is_not_folded() -> None:
    convolution, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    values = torch.randn(2, 3, 8, 8)
    result = normalized_convolution(values, convolution, norm)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)  # the batch's own statistics
    torch.testing.assert_close(result.var((0, 2, 3), correction=0), torch.ones(4), rtol=0, atol=1e-3)
    assert norm.num_batches_tracked == 1


def test_training_keeps_no_folded_weights() -> None:
    ours, _ = norms(6)
    convolution = nn.Conv2d(4, 6, 3, bias=False, dtype=torch.float64)
    values = torch.randn(2, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    kept = {each.data_ptr() for each in kept_tensors(normalized_convolution, values, convolution, ours)}
    known = {values.data_ptr(), convolution.weight.data_ptr()}
    assert known < kept
    assert len(kept) == 3  # the third is the scale


@pytest.mark.parametrize("frozen", ["weights", "input"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    ours, theirs = norms(6)
    convolution = nn.Conv2d(4, 6, 3, bias=False, dtype=torch.float64).requires_grad_(frozen != "weights")
    values = torch.randn(2, 4, 9, 7, dtype=torch.float64, requires_grad=frozen != "input")
    inputs = [each for each in (values, convolution.weight) if each.requires_grad]
    results = normalized_convolution(values, convolution, ours), theirs(convolution(values))
    torch.testing.assert_close(*(torch.autograd.grad(result.square().sum(), inputs) for result in results))


def test_autocast_casts_as_it_does_without() -> None:
    convolution, norm = nn.Conv2d(4, 6, 3, bias=False), FrozenBatchNorm2d(6)
    values = torch.randn(2, 4, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = normalized_convolution(values, convolution, norm), norm(convolution(values))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0.02, atol=0.02)
    (gradient,) = torch.autograd.grad(found.float().sum(), [convolution.weight])
    assert gradient.dtype == torch.float32
