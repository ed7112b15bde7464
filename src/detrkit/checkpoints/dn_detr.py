"""DN-DETR's weights as the authors write them: DAB-DETR's, and codes of the classes with one more for none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from detrkit.checkpoints import dab_detr
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import Paper, Signature, Table
from detrkit.checkpoints.stored import stored_float, stored_number

# One channel of what a query carries is the indicator.
LABELS: Signature = {"label_enc.weight": (None, "D-1")}
LABEL_RULE: Rule = same("query_source.denoising.embedding", "label_enc")
OFFICIAL = KeyMapping([*dab_detr.OFFICIAL.rules, LABEL_RULE], dab_detr.OFFICIAL.dropped)


def stated_denoising(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' options for noise; without `use_dn` they had no effect.

    Raises:
        CheckpointError: an option of another kind than it should be.
    """
    if not arguments.get("use_dn"):
        return {}
    options = {
        "denoising_groups": stored_number(arguments, "scalar"),
        "label_noise": stored_float(arguments, "label_noise_scale"),
        "box_noise": stored_float(arguments, "box_noise_scale"),
    }
    return {name: value for name, value in options.items() if value is not None}


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' options say beyond names and shapes.

    Raises:
        CheckpointError: see `dab_detr.stated` and `stated_denoising`.
    """
    return dab_detr.stated(arguments) | stated_denoising(arguments)


TABLE: Table = dataclasses.replace(
    dab_detr.TABLE,
    paper=Paper("DN-DETR", ({**dab_detr.SIGNATURE, **LABELS},)),
    official=lambda _: OFFICIAL,
    layout=lambda _: OFFICIAL,
    stated=stated,
    hugging_face=None,  # transformers has no DN-DETR
)
