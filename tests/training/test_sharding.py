"""Models that are shared out among processes, here a single one that holds all parts: what it computes and keeps is what the model does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import detrkit
from detrkit.errors import OptionError
from detrkit.models.catalog import CATALOG, criterion_for
from detrkit.structures import ImageBatch, Target
from detrkit.training.optimizer import build_optimizer
from detrkit.training.options import resolve
from detrkit.training.processes import check_processes
from detrkit.training.sharding import Sharding, WholeModel, shard, sharded_parts
from detrkit.training.training_options import TrainingOptions

# A small model of each paper, and backbones whose stages are parts in another way.
FAMILIES = sorted({CATALOG[name].family: name for name in sorted(CATALOG) if name.endswith("-compact")}.values())
BACKBONES = ["resnet18", "mobilenet_v2", "timm/test_convnext", "timm/test_efficientnet"]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def small(variant: str, **settings: Any) -> detrkit.Detector:
    known = {"width": 64, "hidden": 64, "queries": 9, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0}
    fields = CATALOG[variant].config.__dataclass_fields__
    given = {name: value for name, value in known.items() if name in fields} | settings
    if "pyramid_width" in fields:  # of models without a decoder, in which towers are as wide as tokens
        given |= {"width": 128, "pyramid_width": 64, "decoder_layers": 0}
    return detrkit.build(variant, classes=["a", "b"], **given).train()


def batch() -> tuple[ImageBatch, list[Target]]:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return ImageBatch(pixels), [Target(torch.tensor([index]), torch.full((1, 4), 0.4)) for index in (0, 1)]


def learned(model: detrkit.Detector) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and all gradients."""
    torch.manual_seed(0)  # some draw noise
    images, targets = batch()
    loss = criterion_for(model)(model(images, targets), targets).total
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss.item(), {
        name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in gradients.items()
    }


@pytest.mark.parametrize("variant", [*FAMILIES, *BACKBONES])
def test_a_shared_model_learns_what_the_model_learns(mesh: DeviceMesh, variant: str) -> None:
    model = small("detr-compact", backbone=variant) if variant in BACKBONES else small(variant)
    shared = copy.deepcopy(model)
    criterion_for(model)
    shard(shared, mesh)
    shard(shared, mesh)  # Lightning asks once more after a resume
    assert all(isinstance(each, DTensor) for each in shared.parameters())
    parts = [module for module in shared.modules() if isinstance(module, FSDPModule)]
    assert len(parts) >= 4
    (loss, gradients), (shared_loss, shared_gradients) = learned(model), learned(shared)
    assert shared_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == shared_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, msg=name)


def test_parts_are_layers_and_stages() -> None:
    model = small("detr-compact", backbone="resnet18")
    names = {id(module): name for name, module in model.named_modules()}
    assert [names[id(part)] for part in sharded_parts(model)] == [
        *(f"backbone.layer{stage}" for stage in (1, 2, 3, 4)),
        "encoder.layers.0",
        "decoder.layers.0",
        "decoder.layers.1",
    ]
    model = small("detr-compact", backbone="timm/test_convnext")
    names = {id(module): name for name, module in model.named_modules()}
    stages = [name for part in sharded_parts(model) if (name := names[id(part)]).startswith("backbone.")]
    assert stages == [
        "backbone.net.stem_0",
        "backbone.net.stem_1",
        *(f"backbone.net.stages_{each}" for each in range(4)),
    ]


class Module(torch.nn.Module):
    """Stands for Lightning's module around a detector."""

    device = torch.device("cpu")

    def __init__(self, model: detrkit.Detector) -> None:
        super().__init__()
        self.model = model


def optimizer_of(model: detrkit.Detector) -> torch.optim.AdamW:
    slow = {"decoder.norm": 0.1}  # the groups have another order than the model
    return build_optimizer(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.1, rates=slow)


def strategy_of(model: detrkit.Detector) -> Sharding:
    strategy = Sharding(1)
    strategy.model = Module(model)
    strategy.optimizers = [optimizer_of(model)]
    return strategy


def test_checkpoints_have_the_form_of_a_single_process(mesh: DeviceMesh, tmp_path: Path) -> None:
    """What is trained with and without sharing goes on in either form."""
    model = small("deformable-detr-compact")
    shared = copy.deepcopy(model)
    shard(shared, mesh)
    strategy, plain = strategy_of(shared), optimizer_of(model)
    for each, optimizer in ((model, plain), (shared, strategy.optimizers[0])):
        learned(each)
        optimizer.step()
    written, wanted = strategy.optimizer_state(strategy.optimizers[0]), plain.state_dict()
    assert [group["params"] for group in written["param_groups"]] == [
        group["params"] for group in wanted["param_groups"]
    ]
    assert [group["lr"] for group in written["param_groups"]] == [group["lr"] for group in wanted["param_groups"]]
    assert written["state"].keys() == wanted["state"].keys()
    for number, numbers in wanted["state"].items():
        for name, value in numbers.items():
            torch.testing.assert_close(written["state"][number][name], value, msg=f"{number} {name}")

    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "optimizer_states": [wanted]}, tmp_path / "state.ckpt")
    other = copy.deepcopy(small("deformable-detr-compact"))
    shard(other, mesh)
    again = strategy_of(other)
    again.load_checkpoint(tmp_path / "state.ckpt")
    for (name, value), own in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(own.full_tensor(), value), name
    read = again.optimizer_state(again.optimizers[0])
    for number, numbers in wanted["state"].items():
        assert all(torch.equal(read["state"][number][name], value) for name, value in numbers.items()), number


def test_the_whole_model_has_all_weights(mesh: DeviceMesh) -> None:
    model = small("detr-compact")
    module, whole = Module(copy.deepcopy(model)), WholeModel()
    whole.begin(module)
    shard(module.model, mesh)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(1.0)
    whole.on_train_epoch_end(None, module)
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, model.get_parameter(name) + 1.0), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            "strategy=fsdp shares a model out among several processes, and this is one: give devices, or strategy=ddp",
        ),
        ({"devices": 2, "ema": 0.9}, "ema cannot be had with strategy=fsdp: leave one of them out"),
        ({"devices": 2, "minutes": 3.0}, "minutes cannot be had with strategy=fsdp: leave one of them out"),
        (
            {"devices": 2, "variant": "tsp-fcos-r50"},
            "tsp-fcos-r50 has one optimizer for some parts and another for the rest, which cannot be had with strategy=fsdp: take strategy=ddp",
        ),
        ({"devices": 2, "memory_probe": True}, "memory_probe cannot be had with strategy=fsdp: leave one of them out"),
    ],
)
def test_what_sharing_cannot_do(given: dict[str, Any], message: str) -> None:
    options = resolve(
        TrainingOptions(**{"variant": "light-detr-compact", "data": "digits", "strategy": "fsdp", **given})
    )
    with pytest.raises(OptionError) as caught:
        check_processes(options, "cpu")
    assert str(caught.value) == message
