"""A model shared out among the processes of a run (FSDP): each holds a part of the weights, gradients and the optimizer's numbers.

It is PyTorch's `fully_shard`, through Lightning's `ModelParallelStrategy`; Lightning's older `FSDPStrategy` refuses CPUs. What a run writes
is whole, and the same as without it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from detrkit.backbones.timm_networks import TimmBackbone
from detrkit.models.detector import Detector

# Lists of parts of which each is called as a whole, by their names in a detector.
_REPEATED = ("encoder.layers", "decoder.layers", "backbone.stages", "backbone.blocks")
# What is called apart from the part that it lies in: SMCA's decoder asks for centres before its first layer.
_CALLED_APART = ("gaussian_norm",)


def sharded_parts(model: Detector) -> list[nn.Module]:
    """The parts whose weights come together for as long as they are at work, inner ones first: layers, and stages of the backbone.

    Everything else, such as the heads that all layers share, comes together for a whole pass.

    Args:
        model: of any paper.
    """
    parts: list[nn.Module] = []
    for name, module in model.named_modules():
        components = name.split(".")
        if ".".join(components[-2:]) in _REPEATED:
            for part in module.children():
                parts += [each for inner, each in part.named_children() if inner in _CALLED_APART]
                parts.append(part)
        elif components[-2:-1] == ["backbone"] and components[-1].startswith("layer"):  # the stages of a ResNet
            parts.append(module)
        elif isinstance(module, TimmBackbone):
            parts += _called(module.net)
    return [part for part in parts if next(part.parameters(), None) is not None]


def _called(network: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network of timm that are called as a whole. Of lists that is every element, since some go through a `Sequential` by themselves.

    Some networks lie in another one as `model`.
    """
    for name, part in network.named_children():
        if name == "model" or isinstance(part, nn.ModuleList | nn.ModuleDict | nn.Sequential):
            yield from _called(part)
        else:
            yield part


def shard(model: Detector, mesh: DeviceMesh) -> None:
    """Leaves each process its part of every parameter; the model is called and trained as before, by all processes at once.

    Args:
        model: the same in all processes; changed in place.
        mesh: those processes.
    """
    if isinstance(model, FSDPModule):
        return
    model.to(memory_format=torch.contiguous_format)  # others cannot be shared out
    for part in sharded_parts(model):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def local(value: Any) -> Any:
    """Nested values in which each process's part stands for a tensor that is shared out."""
    if isinstance(value, DTensor):
        return value.to_local()
    if isinstance(value, Mapping):
        return {key: local(each) for key, each in value.items()}
    return [local(each) for each in value] if isinstance(value, list) else value


class WholeModel(Callback):
    """A copy of the model with all weights, in each process: what is evaluated and saved at the end of an epoch.

    It stands before `EpochEnds`. While steps are taken it lies in the main memory.
    """

    def __init__(self) -> None:
        self._model: Detector | None = None

    @property
    def model(self) -> Detector:
        """The copy, with the weights of the last epoch's end."""
        assert self._model is not None
        return self._model

    def begin(self, module: Any) -> None:
        """Copies a model that is still whole.

        Args:
            module: a `TrainingModule`.
        """
        self._model = copy.deepcopy(module.model)

    def restore(self, module: Any, _: Mapping[str, Any]) -> None:
        """Likewise, for an epoch whose end is caught up on."""
        self.begin(module)

    def on_train_epoch_start(self, *_: object) -> None:
        """Makes room on the device."""
        self.model.cpu()

    @torch.no_grad()
    def on_train_epoch_end(self, _: Any, pl_module: Any) -> None:
        """Brings all weights together, one after the other."""
        self.model.to(pl_module.device)
        own = self.model.state_dict()
        for name, value in pl_module.model.state_dict().items():
            own[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)


class Sharding(ModelParallelStrategy):
    """Writes and reads checkpoints in the form that a single process has: a run may go on with and without sharding.

    Args:
        processes: number of all processes.
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """All of the optimizer's numbers, with numbers for parameters as PyTorch gives them; empty but in the first process."""
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = dict(get_optimizer_state_dict(self._module(), plain, options=whole))
        if not state:
            return {}
        numbers = {name: number for number, name in enumerate(itertools.chain(*self._names(plain)))}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
        return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        """Reads a checkpoint, of which each process takes its part."""
        checkpoint: dict[str, Any] = torch.load(
            checkpoint_path, map_location="cpu", weights_only=weights_only, mmap=True
        )
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._module(), checkpoint["state_dict"], options=whole)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            self._load_optimizer(optimizer, state)
        return checkpoint

    def _load_optimizer(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        saved = state["param_groups"]
        if not state["state"]:  # an optimizer that keeps nothing; PyTorch's function for it needs a tensor
            for group, values in zip(optimizer.param_groups, saved, strict=True):
                group.update({name: value for name, value in values.items() if name != "params"})
            return
        numbers = itertools.chain(*(group["params"] for group in saved))
        named = dict(zip(numbers, itertools.chain(*self._names(optimizer)), strict=True))
        groups = [{**group, "params": [named[number] for number in group["params"]]} for group in saved]
        states = {named[number]: value for number, value in state["state"].items()}
        whole = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self._module(), optimizer, {"state": states, "param_groups": groups}, options=whole)

    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _names(self, optimizer: Optimizer) -> Iterator[list[str]]:
        """The names of the parameters in each group of an optimizer."""
        names: dict[int, str] = {id(parameter): name for name, parameter in self._module().named_parameters()}
        return iter([[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups])
