"""What `transformers` has of a paper: its class, settings in `config.json` and names of tensors; and how it prepares images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detrkit.cards import Category, Preprocessing
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.errors import CheckpointError

PROCESSOR_FILE = "preprocessor_config.json"
_LONG_SIDE = 1333  # of their processors, where a file states the shorter side alone
_NO_NAME = "N/A"
# Kind of blocks, and blocks of each stage.
_RESNETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


def _last_stage(config: Any) -> tuple[int, ...]:  # noqa: ARG001 - see `HuggingFaceForm.stages`
    return (4,)


@dataclass(frozen=True)
class HuggingFaceForm:
    """A paper's model in `transformers`.

    Attributes:
        model_type: name of its configuration in `config.json`.
        architecture: the class with the heads.
        processor: the class that prepares images.
        names: the table of names for a configuration; the second argument says whether the backbone is timm's.
        settings: entries of `config.json` besides the backbone and the classes. Raises a CheckpointError for what their model cannot be.
        stages: the stages of the backbone that the model looks at, from 1 to 4.
        fixed: settings with the only values that their model has.
        note: a sentence for users about what their code computes otherwise; empty if there is nothing to say.
    """

    model_type: str
    architecture: str
    processor: str
    names: Callable[[Any, bool], KeyMapping]
    settings: Callable[[Any], dict[str, Any]]
    stages: Callable[[Any], tuple[int, ...]] = _last_stage
    fixed: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def settings_file(self, config: Any, categories: tuple[Category, ...], *, timm: bool, dtype: str) -> dict[str, Any]:
        """The content of `config.json`.

        Args:
            config: the model's configuration.
            categories: its classes.
            timm: whether the backbone is timm's.
            dtype: type of the weights, such as "float32".

        Raises:
            CheckpointError: their model cannot be as this configuration says.
        """
        names = {category.index: category.name for category in categories}
        labels = [names.get(index, _NO_NAME) for index in range(config.class_count)]
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "dtype": dtype,
            **self.settings(config),
            **_backbone(config.backbone, self.stages(config), timm=timm),
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }


def transformer_settings(config: Any) -> dict[str, Any]:
    """Sizes of a transformer, and where values are dropped in training, as in the authors' code."""
    sizes = {"ffn_dim": config.hidden, "attention_heads": config.attention_heads}
    return {
        "num_queries": config.queries,
        "d_model": config.width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        **{f"{part}_{name}": number for part in ("encoder", "decoder") for name, number in sizes.items()},
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), config.dropout),
        "activation_function": "relu",
        "position_embedding_type": "sine",
        "is_encoder_decoder": True,
    }


def loss_settings(costs: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, int]:
    """Weights in matching and loss, of which `transformers` takes whole numbers only; others are left out, so that its own apply.

    Args:
        costs: of "class", "l1" and "giou" in matching.
        weights: of terms of the loss, by the beginnings of their names in `config.json`.
    """
    names = {"class": "class_cost", "l1": "bbox_cost", "giou": "giou_cost"}
    values = {names[term]: value for term, value in costs.items()}
    values |= {f"{name}_loss_coefficient": value for name, value in weights.items()}
    return {name: int(value) for name, value in values.items() if float(value).is_integer()}


def has_backbone(name: str) -> bool:
    """Whether `transformers` builds this backbone: a ResNet."""
    return name.partition("-")[0] in _RESNETS


def _backbone(name: str, stages: tuple[int, ...], *, timm: bool) -> dict[str, Any]:
    """Entries of `config.json` for a ResNet of `transformers` itself, or for timm's, which alone can be dilated.

    Timm's is configured as in the files that are published, which every release reads.
    """
    network, _, kind = name.partition("-")
    if timm:
        return {"use_timm_backbone": True, "backbone": network, "backbone_config": None, "dilation": kind == "dc5"}
    blocks, depths = _RESNETS[network]
    if kind == "c4":
        depths, stages = depths[:3], tuple(min(stage, 3) for stage in stages)
    first = 256 if blocks == "bottleneck" else 64
    settings = {
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [first * 2**stage for stage in range(len(depths))],
        "depths": list(depths),
        "layer_type": blocks,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "out_features": [f"stage{stage}" for stage in stages],
    }
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": settings, "dilation": False}


def processor_file(form: HuggingFaceForm, preprocessing: Preprocessing, *, panoptic: bool) -> dict[str, Any]:
    """The content of `preprocessor_config.json`; batches smaller than `smallest_side` are not padded there."""
    return {
        "image_processor_type": form.processor,
        "format": "coco_panoptic" if panoptic else "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.short_side, "longest_edge": preprocessing.long_side},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.deviation),
        "do_convert_annotations": True,
        "do_pad": True,
    }


def stored_preprocessing(weights: Path, default: Preprocessing) -> Preprocessing:
    """How images are prepared for a model that `transformers` wrote.

    Args:
        weights: the file of weights, beside which it keeps that.
        default: what applies where it says nothing, or where there is no such file.

    Raises:
        CheckpointError: the file is damaged, or asks for what detrkit does not do to images.
    """
    file = weights.with_name(PROCESSOR_FILE)
    if not (file.is_file() and weights.with_name("config.json").is_file()):
        return default
    try:
        stored = json.loads(file.read_bytes())
        _check_steps(stored)
        short_side, long_side = _sides(stored, default)
        if min(short_side, long_side) < 1:
            raise ValueError(f"size {stored['size']}")
        plain = stored.get("do_normalize") is False
        mean, deviation = stored.get("image_mean", default.mean), stored.get("image_std", default.deviation)
        if not plain and min(_channels(deviation)) <= 0:
            raise ValueError(f"image_std {deviation}")
        return replace(
            default,
            short_side=short_side,
            long_side=long_side,
            mean=(0.0, 0.0, 0.0) if plain else _channels(mean),
            deviation=(1.0, 1.0, 1.0) if plain else _channels(deviation),
        )
    except (ValueError, TypeError, AttributeError) as problem:
        raise CheckpointError(
            f"{file} does not say how images are prepared in a way that detrkit knows ({problem}): correct it, or take it away"
        ) from problem


def _check_steps(stored: Mapping[str, Any]) -> None:
    """Refuses steps that detrkit does otherwise: images are resized by bilinear interpolation, and their values divided by 255."""
    wanted = (("do_resize", True), ("do_rescale", True), ("resample", 2))
    for name, value in wanted:
        if stored.get(name, value) != value:
            raise ValueError(f"{name} {stored[name]}, where detrkit has {value}")
    if not math.isclose(factor := stored.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-4):
        raise ValueError(f"rescale_factor {factor}, where detrkit has 1/255")


def _sides(stored: Mapping[str, Any], default: Preprocessing) -> tuple[int, int]:
    """The shorter side and the limit of the longer one."""
    size = stored.get("size")
    if size is None:
        return default.short_side, default.long_side
    if isinstance(size, int):  # as earlier releases wrote it
        return size, int(stored.get("max_size", _LONG_SIDE))
    if "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size.get("longest_edge") or stored.get("max_size", _LONG_SIDE))
    if "max_height" in size and size["max_height"] == size.get("max_width"):
        return int(size["max_height"]), int(size["max_height"])
    raise ValueError(f"size {dict(size)}, where detrkit takes shortest_edge and longest_edge")


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{values} for the channels")
    return red, green, blue
