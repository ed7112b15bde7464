"""The criterion on outputs of the authors' models: losses of papers that share the focal set loss, from stored scores and boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit.losses.criterion import focal_criterion
from detrkit.losses.sets import ChosenProposals
from detrkit.structures import LayerOutput, Output, Proposals, Target

COST_WEIGHTS = {"class": 2.0, "l1": 5.0, "giou": 2.0}
EPSILONS = {
    "conditional_detr_r50": 0.0,
    "anchor_detr_r50_c5": 0.0,
    "smca_detr_r50": 0.0,
    "sam_detr_r50": 0.0,
    "dab_detr_r50": 1e-6,
    "dab_deformable_detr_r50": 1e-6,
    "dn_dab_detr_r50": 1e-6,
    "dino_r50_4scale": 1e-6,
}


@pytest.mark.parametrize(("case", "epsilon"), EPSILONS.items())
def test_losses_are_the_authors(case: str, epsilon: float, shared: Path) -> None:
    folder = shared / "golden" / case
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "golden.npz").items()}
    layers = len([name for name in arrays if name.startswith("layers.") and name.endswith(".boxes")])
    logits, boxes = (
        torch.stack([arrays[f"layers.{layer}.{kind}"] for layer in range(layers)]) for kind in ("logits", "boxes")
    )
    chosen = LayerOutput(arrays["selected.logits"], arrays["selected.boxes"]) if "selected.boxes" in arrays else None
    output = Output(logits, boxes, chosen and Proposals(chosen=chosen))
    criterion = focal_criterion(
        class_count=91,
        no_object=logits.shape[-1],
        layers=layers,
        cost_weights=COST_WEIGHTS,
        loss_weights={**COST_WEIGHTS, "class": manifest["weights"]["loss_ce"]},
        giou_epsilon=epsilon,
        sets=[ChosenProposals()] if chosen else [],
    )
    for values, empty in ((manifest, ()), (manifest["empty_one"], (1,)), (manifest["empty_both"], (0, 1))):
        targets = [
            Target(torch.tensor(each["labels"]), torch.tensor(each["boxes"], dtype=torch.float64))
            for each in manifest["targets"]
        ]
        none = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.float64))
        losses = criterion(output, [none if row in empty else target for row, target in enumerate(targets)])
        for theirs, ours in (("loss_ce", "class"), ("loss_bbox", "l1"), ("loss_giou", "giou")):
            names = {f"layers.{layer}.{ours}": f"{theirs}_{layer}" for layer in range(layers - 1)}
            names[f"layers.{layers - 1}.{ours}"] = theirs
            if chosen is not None:
                names[f"proposals.{ours}"] = f"{theirs}_interm"
            for name, key in names.items():
                assert losses.terms[name].item() == pytest.approx(values["losses"][key], rel=1e-9, abs=1e-12), name
        assert losses.total.item() == pytest.approx(values["total"], rel=1e-9)
