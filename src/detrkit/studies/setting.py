"""What the studies' detectors have in common: small pictures of the built-in digits, and a backbone of stride 8 from random numbers.

A digit covers a few cells of that backbone. Classes weigh as much as boxes, or these detectors find digits long before they can tell them
apart. Only the detectors with deformable attention see a finer level too, since they are made for several.
"""

from __future__ import annotations

from typing import Any

ON_DIGITS: dict[str, Any] = {
    "flip": 0.0,
    "crop": False,
    "multi_scale": False,
    "batch_size": 16,
    "warmup_steps": 50,
    "schedule": "cosine",
}
OPTIONS: dict[str, Any] = {
    **ON_DIGITS,
    "epochs": 6,
    "short_side": 64,
    "long_side": 64,
    "lr": 1e-3,
    "backbone_lr": 1e-3,
    "gradient_clip": 1.0,
}
WATCHED: dict[str, Any] = {**OPTIONS, "watch": "convergence"}
SAME: dict[str, Any] = {
    "backbone": "compact-c3",
    "queries": 30,
    "width": 128,
    "attention_heads": 4,
    "hidden": 256,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "dropout": 0.0,
    "class_weight": 5.0,
}
SGD: dict[str, Any] = {"gradient_clip": 10.0}  # of TSP, whose steps grow with the gradient, unlike those of AdamW


def dense(**settings: Any) -> dict[str, Any]:
    """Options of a detector whose queries look at every cell; settings replace the common ones."""
    return {"settings": {**SAME, **settings}}


def anchored(**settings: Any) -> dict[str, Any]:
    """Options of DAB-DETR, whose weights in matching are settings of their own."""
    return dense(class_cost=SAME["class_weight"], **settings)


def sparse(**settings: Any) -> dict[str, Any]:
    """Options of a detector with deformable attention, which has two levels."""
    return {"settings": {**SAME, "levels": 2, **settings}}


def without_decoder(**settings: Any) -> dict[str, Any]:
    """Options of TSP, which takes all levels of the same backbone; its encoder has the layers that others have in encoder and decoder."""
    own = {name: SAME[name] for name in ("queries", "width", "hidden", "attention_heads")}
    return {"settings": {**own, "backbone": "compact", "encoder_layers": 4, **settings}, **SGD}
