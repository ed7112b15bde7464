"""How often the host waits for the device: once per call of a criterion, whatever it has to match."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import AllProposals, KnownGroup, RepeatedGroup
from detrkit.models import detr
from detrkit.structures import GroupOutput, LayerOutput, Output, Proposals, QueryGroup, Target

WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "unique_dim", "_unique2", "repeat_interleave"}
COPIES = {"cpu", "numpy", "item", "tolist", "__bool__", "__float__", "__int__"}


class Operators(TorchDispatchMode):
    """Counts operators whose result the host needs, indices that are masks, and copies to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        moved = name == "_to_copy" and "device" in (kwargs or {}) and not (kwargs or {}).get("non_blocking")
        if name in WAITING or masks or moved:
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Counts reads of a tensor's values, which are no operators if the tensor is already on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in COPIES:
            self.waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def waits(criterion: SetCriterion, output: Output, targets: Sequence[Target]) -> dict[str, int]:
    with Calls() as calls, Operators() as operators:
        criterion(output, targets)
    return dict(calls.waits + operators.waits)


def predictions(*shape: int, outputs: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, outputs, requires_grad=True), (torch.rand(*shape, 4) * 0.5 + 0.2).requires_grad_()


TARGETS = [
    Target(torch.tensor([1, 2]), torch.rand(2, 4) * 0.5 + 0.2),
    Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
]


def test_a_criterion_with_everything_waits_once() -> None:
    known = QueryGroup("denoising", 4, torch.tensor([[0, 1, -1, -1], [-1, -1, -1, -1]]), counted=torch.ones(2, 4) > 0)
    repeated = QueryGroup("one2many", 6, repeats=2)
    output = Output(
        *predictions(3, 2, 5),
        Proposals(LayerOutput(*predictions(2, 9))),
        (GroupOutput(known, Output(*predictions(3, 2, 4))), GroupOutput(repeated, Output(*predictions(3, 2, 6)))),
    )
    weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
    criterion = focal_criterion(
        class_count=4,
        layers=3,
        cost_weights=weights,
        loss_weights=weights,
        sets=[AllProposals(), KnownGroup("denoising"), RepeatedGroup("one2many")],
    )
    assert waits(criterion, output, TARGETS) == {"cpu": 1, "numpy": 1}
    alone = dataclasses.replace(output, proposals=Proposals(output.proposals.all), training_groups=())
    assert waits(criterion, alone, TARGETS) == {"cpu": 1, "numpy": 1}


def test_so_does_the_one_with_softmax() -> None:
    criterion = detr.criterion(detr.Config(class_count=3, decoder_layers=3), None)
    assert waits(criterion, Output(*predictions(3, 2, 5)), TARGETS) == {"cpu": 1, "numpy": 1}


@pytest.mark.parametrize(
    "question",
    [
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: torch.equal(tensor, tensor),
        lambda tensor: tensor.sum().item(),
        lambda tensor: tensor.sum().tolist(),
        lambda tensor: tensor.to("meta"),
    ],
)
def test_the_counting_sees_what_waits(question: Any) -> None:
    with Calls() as calls, Operators() as operators:
        question(torch.ones(3))
    assert (calls.waits + operators.waits).total() >= 1
