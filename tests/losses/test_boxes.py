"""Box losses against numbers by hand and against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from losses.records import boxed

from detrkit.losses.boxes import giou_loss, l1_loss


def test_l1_by_hand() -> None:
    predicted = torch.tensor(
        [[[0.5, 0.5, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]], [[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]]
    )
    wanted = torch.tensor([[0.4, 0.7, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]).expand(2, 2, 4)
    found = l1_loss(boxed(predicted, wanted, 2))
    torch.testing.assert_close(found, torch.tensor([0.4 / 2, (0.1 + 0.2 + 0.3 + 0.4 + 1.0) / 2]))
    torch.testing.assert_close(l1_loss(boxed(predicted, wanted, torch.tensor(4.0))), found / 2)


def test_giou_by_hand() -> None:
    # Corners (0, 0, 2, 2) and (1, 1, 3, 3), in tenths: GIoU = 1/7 - 2/9; then the same box twice.
    predicted = torch.tensor([[[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1]]])
    wanted = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1]]])
    assert giou_loss(boxed(predicted, wanted, 3.0)).item() == pytest.approx((1 - 1 / 7 + 2 / 9) / 3, rel=1e-5)


def test_layers_are_separate_and_gradients_equal_torchvision() -> None:
    predicted = (torch.rand(3, 6, 4, dtype=torch.float64) * 0.5 + 0.2).requires_grad_()
    wanted = torch.rand(3, 6, 4, dtype=torch.float64) * 0.5 + 0.2
    found = giou_loss(boxed(predicted, wanted, 5.0))
    corners = [torchvision.ops.box_convert(boxes, "cxcywh", "xyxy") for boxes in (predicted, wanted)]
    reference = torchvision.ops.generalized_box_iou_loss(*corners, reduction="none", eps=0.0).sum(1) / 5
    torch.testing.assert_close(found, reference)
    gradients = [torch.autograd.grad(losses[1], predicted, retain_graph=True)[0] for losses in (found, reference)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][[0, 2]].any()


def test_no_pairs_cost_nothing_and_keep_the_graph() -> None:
    predicted = torch.rand(2, 5, 4, requires_grad=True)
    nothing = predicted[:, :0]
    for loss in (l1_loss, giou_loss):
        found = loss(boxed(nothing, torch.zeros(2, 0, 4), 1.0))
        assert found.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(found.sum(), predicted)
        assert torch.equal(gradient, torch.zeros(2, 5, 4))


def test_giou_epsilon_by_hand() -> None:
    """Corners (0, 0, 2, 2) and (1, 1, 3, 3) have an intersection of 1, a union of 7 and a hull of 9; an epsilon of 1 makes these divisors 8 and 10."""
    predicted, wanted = torch.tensor([[[1.0, 1.0, 2.0, 2.0]]]), torch.tensor([[[2.0, 2.0, 2.0, 2.0]]])
    pairs = boxed(predicted, wanted, 1.0)
    assert giou_loss(pairs, epsilon=1.0).item() == pytest.approx(1 - 1 / 8 + 2 / 10, rel=1e-6)
    assert giou_loss(pairs).item() == pytest.approx(1 - 1 / 7 + 2 / 9, rel=1e-6)


def test_boxes_without_area_need_the_epsilon() -> None:
    point = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])
    assert giou_loss(boxed(point, point, 1.0)).isnan()
    assert giou_loss(boxed(point, point, 1.0), epsilon=1e-6).item() == 1.0
