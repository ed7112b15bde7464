"""Figures of convergence: what changes in the matching from epoch to epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.small_runs import SMALL, check_same_run, rows, run, without_reports

import detrkit
from detrkit.data import open_dataset
from detrkit.training.watching import ConvergenceWatch

COLUMN = "matching_instability"


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


def test_queries_that_change_places_are_counted(digits_folder: Path) -> None:
    dataset = open_dataset(digits_folder, "train")
    watch = ConvergenceWatch(dataset)
    torch.manual_seed(0)
    model = detrkit.build("detr-compact", classes=dataset.categories, **SMALL["settings"]).train()
    assert watch.figures(model) == {}
    assert model.training
    assert watch.figures(model) == {COLUMN: 0.0, f"{COLUMN}_0": 0.0, f"{COLUMN}_1": 0.0}
    weight = model.query_source.position.weight
    with torch.no_grad():
        weight.copy_(weight.roll(1, dims=0))
    assert watch.figures(model)[COLUMN] == 1.0
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]
    assert 0 < watch.figures(model)[f"{COLUMN}_1"] < 1


def test_the_order_of_proposals_says_nothing(digits_folder: Path) -> None:
    """A higher score makes another rank of a proposal, and the same box of the same token."""
    dataset = open_dataset(digits_folder, "train")
    watch = ConvergenceWatch(dataset)
    torch.manual_seed(0)
    settings = {**SMALL["settings"], "width": 64, "queries": 400}  # more than there are tokens, so that all are there
    model = detrkit.build("deformable-detr-compact-two-stage", classes=dataset.categories, **settings)
    watch.figures(model)
    with torch.no_grad():
        head = model.query_source.proposals.class_head
        head.weight[0] *= -1
    assert watch.figures(model)[COLUMN] == 0.0


def test_a_run_logs_them_and_a_resumed_one_the_same(digits_folder: Path, tmp_path: Path) -> None:
    options = {"watch": "convergence", "epochs": 3, "lr": 1e-3}
    run(digits_folder, tmp_path / "whole", **options)
    run(digits_folder, tmp_path / "parts", **options, steps=3)
    detrkit.train(resume=tmp_path / "parts", steps=9)
    check_same_run(tmp_path / "whole", tmp_path / "parts")
    found = [row[COLUMN] for row in rows(tmp_path / "whole")]
    assert found[0] == ""
    assert all(0 <= float(each) <= 1 for each in found[1:])
