"""The authors' reference values, where they can be had, and what the models give on the weights and images behind them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import recipe
from torch import Tensor

import detrkit
from detrkit.checkpoints import from_official, to_official
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.structures import ImageBatch, Stages, Target

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Case:
    """The model that a case's reference values belong to.

    Attributes:
        variant: its name in the catalog.
        settings: fields of its configuration that the case has otherwise.
        unused: what the names of tensors begin with that the authors have and nothing uses; we leave them out.
        first_level: the number of our first level among the authors', who also keep finer ones.
        skipped: arrays of stages that our model does not have.
        reported: how many detections the authors report of an image, where their values do not say it.
        imitate: changes a model so that it does what the authors' code does in the case, where ours is sound instead.
        training: whether the values are also of queries that exist in training only. The model then runs in training mode, which changes nothing
            else where nothing is dropped and norms are frozen.
        arguments: options without which the authors' file is not understood.
    """

    variant: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    unused: str | None = None
    first_level: int = 0
    skipped: tuple[str, ...] = ()
    reported: int = 100
    imitate: Callable[[Any], None] | None = None
    training: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def uses(self, key: str) -> bool:
        """Whether the authors' tensor of this name has a place in our model."""
        return self.unused is None or not key.startswith(self.unused)


def first_image_weighs_levels(model: Any) -> None:
    """Multi-scale SMCA-DETR's authors take the first image's weights of levels for the whole batch."""
    for layer in model.decoder.layers:
        own = layer.gaussian.level_weights
        layer.gaussian.level_weights = lambda states, own=own: own(states[:1]).expand(len(states), -1, -1)


SMALL = {"queries": 40}  # cases have few queries, to keep them small
CASES = {
    "detr_r50": Case("detr-r50", SMALL),
    "detr_r50_dc5": Case("detr-r50-dc5", SMALL),
    "detr_r50_panoptic": Case(
        "detr-r50-panoptic",
        SMALL,
        reported=40,
        skipped=(  # test_masks.py has them
            "masks",
            *(f"segm.{image}.masks" for image in (0, 1)),
            *(f"panoptic.{entry}.{image}.ids" for entry in (0, 1, 2) for image in (0, 1)),
        ),
    ),
    "conditional_detr_r50": Case("conditional-detr-r50", SMALL),
    "conditional_detr_r50_dc5": Case("conditional-detr-r50-dc5", SMALL),
    "dab_detr_r50": Case("dab-detr-r50", SMALL),
    "dab_detr_r50_dc5": Case("dab-detr-r50-dc5", SMALL),
    "dab_detr_r50_3patterns": Case("dab-detr-r50-3patterns", {"queries": 54}),
    "deformable_detr_r50": Case("deformable-detr-r50", SMALL),
    "deformable_detr_single_scale": Case("deformable-detr-r50-single-scale", SMALL),
    "deformable_detr_single_scale_dc5": Case("deformable-detr-r50-single-scale-dc5", SMALL),
    "deformable_detr_refine": Case("deformable-detr-r50-refine", SMALL),
    "deformable_detr_two_stage": Case("deformable-detr-r50-two-stage", SMALL),
    "dab_deformable_detr_r50": Case("dab-deformable-detr-r50", SMALL),
    "dino_r50_4scale": Case("dino-r50-4scale", SMALL, reported=300),
    "dn_dab_detr_r50": Case("dn-dab-detr-r50", SMALL, reported=300),
    "h_deformable_detr_r50": Case(
        "h-deformable-detr-r50",
        SMALL | {"one_to_many_queries": 60},
        training=True,
        arguments={"num_queries_one2one": 40, "num_queries_one2many": 60, "k_one2many": 6},
    ),
    "smca_detr_r50": Case("smca-detr-r50", SMALL, reported=40),
    "smca_detr_r50_multiscale": Case(
        "smca-detr-r50-multiscale",
        SMALL,
        first_level=1,
        # The finest level is there only until the encoder makes it coarser.
        skipped=("backbone.0", "pos.0", "mask.0", "encoder_levels.0"),
        reported=500,
        imitate=first_image_weighs_levels,
    ),
    "sam_detr_r50": Case("sam-detr-r50", SMALL),
    "sam_detr_r50_smca": Case("sam-detr-r50-smca", SMALL),
    "sam_detr_r50_dc5": Case("sam-detr-r50-dc5", SMALL | {"normed_levels": True}),
    "sam_detr_r50_multiscale": Case("sam-detr-r50-multiscale-smca", SMALL),
    "anchor_detr_r50_c5": Case("anchor-detr-r50-c5", {"queries": 54}),
    "anchor_detr_r50_dc5": Case("anchor-detr-r50-dc5", {"queries": 54}),
    "anchor_detr_r50_c5_plain": Case("anchor-detr-r50-c5-plain", {"queries": 54}, unused="transformer.adapt_pos1d."),
}
ALONE = "alone."  # results of single images, without padding
_OUTSIDE_ARRAYS = (".inside", "encoder.index", "encoder.topk")  # what tells about other arrays


@dataclass(frozen=True)
class Golden:
    """What the authors' code computed for a case (float64, eval mode).

    Attributes:
        manifest: how the case was made, and everything that is no array.
        arrays: stages and outputs by name, flat; every `steps[name]`-th element.
        steps: 1 where an array is whole.
        gradients: norm and probe by the authors' canonical keys.
        frozen: keys that do not train.
        complete: whether every gradient is there.
        case: what the values belong to.
    """

    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]
    steps: dict[str, int]
    gradients: dict[str, tuple[float, float]]
    frozen: list[str]
    complete: bool
    case: Case

    @property
    def stages(self) -> list[str]:
        """Names of the arrays that a model's stages can be compared with."""
        left_out = (*self.case.skipped, *(name for name in self.arrays if name.startswith(ALONE)))
        return [name for name in self.arrays if not name.endswith(_OUTSIDE_ARRAYS) and name not in left_out]

    def places(self, name: str) -> np.ndarray | slice:
        """Which elements of a stage count: position codes and memory behind padding are noise, and reach nothing."""
        inside = self.arrays.get(f"{name}.inside")
        return slice(None) if inside is None else inside == 1


def small_golden(case: str) -> Golden | None:
    """The part of a case's values that lies beside the tests, or None."""
    path = DATA / f"{case}.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    arrays = {name: np.array(values) for name, values in content.pop("arrays").items()}
    parts = {name: content.pop(name) for name in ("steps", "gradients", "frozen")}
    return Golden(content, arrays, **parts, complete=False, case=CASES[case])


def shared_golden(case: str, shared: Path | None) -> Golden | None:
    """All of a case's values, or None without their folder."""
    if shared is None:
        return None
    folder = shared / "golden" / case
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays = {name: values.reshape(-1) for name, values in np.load(folder / "golden.npz").items()}
    steps = {name: manifest["sampled"].get(name.removesuffix(".inside"), {"step": 1})["step"] for name in arrays}
    gradients = json.loads((folder / "gradients.json").read_text())
    none = gradients.pop("none")
    frozen = gradients.pop("frozen", none)  # some cases list what does not train among what has no gradient
    assert none is frozen or not any(map(CASES[case].uses, none))
    return Golden(manifest, arrays, steps, gradients, frozen, complete=True, case=CASES[case])


class Run:
    """A model with a case's weights, and what it gives on the case's images."""

    def __init__(self, name: str, manifest: Mapping[str, Any], *, case: Case | None = None) -> None:
        case = case or CASES[name]
        self.case, self.manifest = name, manifest
        self.aliases: dict[str, str] = manifest["aliases"]
        with WithoutRandomValues():  # every one is loaded
            self.model = detrkit.build(case.variant, **case.settings)
        names = to_official(self.model.state_dict(), self.model)
        shapes = {key: tuple(value.shape) for key, value in names.items()}
        self.weights = recipe.weights(
            shapes, manifest["scale"], self.aliases, manifest.get("fixed")
        )  # what the authors' checkpoint holds
        self.model.load_state_dict(from_official(self.weights, self.model))
        if case.imitate is not None:
            case.imitate(self.model)
        self.model.double().train(case.training)
        self.criterion = detrkit.criterion_for(self.model)
        self.stages = self.stages_of(self.batch())
        self.output = self.stages.output

    def stages_of(self, batch: ImageBatch) -> Stages:
        """The model's stages, and what each layer of its decoder returned before any norm for the heads, as `layers`."""
        results: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda _, arguments, result: results.append(result))
            for layer in self.model.decoder.layers
        ]
        stages = self.model.stages(batch)
        for handle in handles:
            handle.remove()
        stages.layers = results
        source = self.model.query_source
        if hasattr(source, "proposals"):  # of all tokens, also where the model looks at the chosen ones only
            stages.all_proposals = source.proposals(stages.memory)
        return stages

    def batch(self, dtype: torch.dtype = torch.float64) -> ImageBatch:
        """The case's images; anything may stand behind padding."""
        images = [recipe.image(*spec) for spec in self.manifest["images"]]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        pixels = torch.full((len(images), 3, height, width), 7.0, dtype=torch.float64)
        padding = torch.ones(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            pixels[row, :, : image.shape[1], : image.shape[2]] = image
            padding[row, : image.shape[1], : image.shape[2]] = False
        return ImageBatch(pixels.to(dtype), padding)

    def targets(self, *, empty: Collection[int] = ()) -> list[Target]:
        """The case's objects; images in `empty` get none."""
        found = []
        for row, target in enumerate(self.manifest["targets"]):
            keep = slice(0, 0) if row in empty else slice(None)
            labels, boxes = torch.tensor(target["labels"]), torch.tensor(target["boxes"], dtype=torch.float64)
            masks = None
            if "rectangles" in target:
                masks = torch.zeros((len(labels), *self.manifest["images"][row][1:]), dtype=torch.bool)
                for mask, (left, top, right, bottom) in zip(masks, target["rectangles"], strict=True):
                    mask[top:bottom, left:right] = True
                masks = masks[keep]
            found.append(Target(labels=labels[keep], boxes_cxcywh=boxes[keep], masks=masks))
        return found

    def masks(self, output: Any) -> Tensor:
        """(B, Q, h, w) logits of every query's mask."""
        batch, queries = output.logits.shape[1:3]
        images, numbers = torch.arange(batch).repeat_interleave(queries), torch.arange(queries).repeat(batch)
        logits: Tensor = self.model.mask_logits(output.mask_inputs, images, numbers)
        return logits.unflatten(0, (batch, queries))

    def sample(self, name: str, golden: Golden, stages: Stages) -> np.ndarray:
        """A stage's elements that the reference has, too."""
        values = _stage(name, golden, stages).detach().contiguous().reshape(-1)
        return values[:: golden.steps[name]].numpy()

    def our_terms(self, values: Mapping[str, float]) -> dict[str, float]:
        """Loss terms by our names: the authors' are of the last layer where they have no number.

        The authors also weigh `_enc` where no encoder proposes anything; then there is no such term.
        """
        result: dict[str, float] = {}
        for group, ending in (("", ""), ("one_to_many.", "_one2many")):
            stems = {name.removesuffix(ending): value for name, value in values.items() if name.endswith(ending)}
            if group:  # they have no proposals, though the authors weigh them
                stems = {name: value for name, value in stems.items() if not name.endswith("_enc")}
            result |= {f"{group}{name}": value for name, value in self._our_terms(stems).items()}
        return result

    def _our_terms(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of one kind of queries."""
        terms = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
        if hasattr(self.output, "mask_inputs"):
            terms |= {"loss_mask": "mask", "loss_dice": "dice"}
        result = {}
        for name, value in values.items():
            parts = re.fullmatch(rf"({'|'.join(terms)})(?:_(\d+|enc|interm))?", name)
            if parts is None:
                continue
            term, place = terms[parts[1]], parts[2]
            if place in ("enc", "interm"):
                if self.output.proposals is not None:
                    result[f"proposals.{term}"] = value
            elif place is None or term not in ("mask", "dice"):  # which are of the last layer only
                layer = len(self.output.logits) - 1 if place is None else place
                result[f"layers.{layer}.{term}"] = value
        return result

    def denoising_terms(self, values: Mapping[str, float]) -> dict[str, float]:
        """Loss terms of noised objects by our names: with the authors they begin with `tgt_` or have `_dn` behind the name."""
        noised = {name: value for name, value in values.items() if name.startswith("tgt_") or "_dn" in name}
        plain = {name.removeprefix("tgt_").replace("_dn", ""): value for name, value in noised.items()}
        return {f"denoising.{name}": value for name, value in self.our_terms(plain).items()}


def _stage(name: str, golden: Golden, stages: Stages) -> Tensor:
    """What a model has where the authors' code has the array of this name."""
    kind, *rest = name.split(".")
    if kind in ("backbone", "projected", "position", "pos", "mask"):
        level = int(rest[0]) - golden.case.first_level if rest else 0
        if kind == "mask":
            assert stages.neck.paddings[level] is not None
        return {
            "mask": lambda: stages.neck.paddings[level],
            "backbone": lambda: stages.backbone[level].features,
            "projected": lambda: stages.neck.maps[level],
            "position": lambda: stages.neck.positions[level],
            "pos": lambda: stages.neck.positions[level],
        }[kind]()
    if kind == "encoder_levels":
        return stages.memory.maps()[int(rest[0])]
    if kind == "level64":
        return stages.neck.maps[-1]
    if kind == "memory":
        sampled, tokens = golden.manifest["sampled"][name], stages.memory.tokens
        if "height" in sampled.get("layout", ""):
            return stages.memory.maps()[0]
        return tokens if sampled["shape"][0] == len(tokens) else tokens.transpose(0, 1)
    if kind == "points":
        assert stages.decoded.base_logits is not None
        return stages.decoded.base_logits[0, ..., :2]
    if kind == "reference":
        return stages.decoded.references[0]
    if kind == "references":
        return stages.decoded.references[int(rest[0])]
    if kind in ("encoder", "selected"):
        index: Any
        proposals, index = stages.output.proposals.chosen, slice(None)
        if kind == "encoder":
            proposals, index = stages.all_proposals, torch.from_numpy(golden.arrays["encoder.index"]).long()
        return {"logits": proposals.logits, "boxes": proposals.boxes_cxcywh}[rest[0]][:, index]
    layer = int(rest[0])
    if kind == "one2many":
        (group,) = stages.output.training_groups
        return {"logits": group.output.logits, "boxes": group.output.boxes_cxcywh}[rest[1]][layer]
    assert kind == "layers"
    return {
        "hidden": lambda: hidden_states(golden, stages)[layer],
        "logits": lambda: stages.output.logits[layer],
        "boxes": lambda: stages.output.boxes_cxcywh[layer],
        "reference": lambda: stages.decoded.references[layer],
    }[rest[1]]()


def hidden_states(golden: Golden, stages: Stages) -> Sequence[Tensor]:
    """States of every layer, with the decoder's norm or without it, as the reference has them."""
    layout = golden.manifest["sampled"]["layers.0.hidden"].get("layout", "")
    return stages.layers if "before any norm" in layout else stages.decoded.states
