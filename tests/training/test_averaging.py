"""The average of the weights: what it is after some steps, and that it is what a run evaluates and saves."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import detrkit
from detrkit.training.averaging import Averaging, average_of, weight_of_step


def test_the_decay_rises_to_what_was_given() -> None:
    assert [weight_of_step(0.9998, updates) for updates in (1, 8, 90)] == pytest.approx([9 / 11, 0.5, 0.09])
    assert weight_of_step(0.9998, 10**6) == pytest.approx(0.0002)
    assert weight_of_step(0.5, 90) == 0.5


def test_weights_and_statistics_are_averaged_and_counters_copied() -> None:
    model = detrkit.build("light-detr-compact", width=64, hidden=32, encoder_layers=1, decoder_layers=1)
    average = average_of(model, 0.9)
    states = []
    for step in range(4):
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if tensor.is_floating_point():
                    tensor.add_(0.1 * (step + 1))
                elif name.endswith("num_batches_tracked"):
                    tensor.fill_(step)
        states.append(copy.deepcopy(model.state_dict()))
        average.update_parameters(model)
    weights = [weight_of_step(0.9, updates) for updates in (1, 2, 3)]
    for name, tensor in average.module.state_dict().items():
        expected = states[0][name]
        for weight, state in zip(weights, states[1:], strict=True):
            expected = torch.lerp(expected, state[name], weight) if expected.is_floating_point() else state[name]
        assert torch.equal(tensor, expected) or torch.allclose(tensor, expected, rtol=1e-6, atol=1e-7), name
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_a_batch_in_pieces_counts_once() -> None:
    steps: list[int] = []
    trainer: Any = SimpleNamespace(global_step=3)
    module: Any = SimpleNamespace(model=None, device="cpu")
    averaging = Averaging(0.9)
    average: Any = SimpleNamespace(update_parameters=lambda _: steps.append(trainer.global_step), to=lambda _: None)
    averaging._average = average
    averaging.on_train_start(trainer, module)
    for step in (3, 4, 4, 5):
        trainer.global_step = step
        averaging.on_train_batch_end(trainer, module)
    assert steps == [4, 5]
