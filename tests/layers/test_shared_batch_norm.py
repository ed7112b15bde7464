"""Batch norm over several processes: as if one process had the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detrkit.layers import shared_batch_norm
from detrkit.layers.shared_batch_norm import SharedBatchNorm2d


def batch(seed: int) -> torch.Tensor:
    return 3 + 2 * torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def norm(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    made = kind(4)
    with torch.no_grad():
        made.weight.copy_(torch.arange(1.0, 5.0))
        made.bias.copy_(torch.arange(4.0))
    return made


def test_alone_it_is_pytorchs() -> None:
    ours, theirs = norm(SharedBatchNorm2d), norm(nn.BatchNorm2d)
    assert torch.equal(ours(batch(0)), theirs(batch(0)))
    assert torch.equal(ours.eval()(batch(1)), theirs.eval()(batch(1)))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_with_a_process_that_has_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of both are twice those of one; the images count twice in the statistics, and each in its own process."""
    monkeypatch.setattr(shared_batch_norm, "process_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.mul_(2))
    ours, theirs = norm(SharedBatchNorm2d), norm(nn.BatchNorm2d)
    own, whole = batch(0).requires_grad_(), torch.cat([batch(0), batch(0)]).requires_grad_()
    weights = batch(1)
    (ours(own) * weights).sum().backward()
    (theirs(whole) * torch.cat([weights, weights])).sum().backward()
    torch.testing.assert_close(own.grad, whole.grad[:2])
    torch.testing.assert_close(2 * ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == 1
    torch.testing.assert_close(ours.eval()(own), theirs.eval()(own))


def test_a_single_number_per_channel_is_normed_by_the_statistics_so_far() -> None:
    norm = SharedBatchNorm2d(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    values = torch.tensor([2.0, 2.0, 5.0]).reshape(1, 3, 1, 1)
    found = norm.train()(values)
    torch.testing.assert_close(found, norm.eval()(values))
    assert norm.running_mean.tolist() == [1, 2, 3]
