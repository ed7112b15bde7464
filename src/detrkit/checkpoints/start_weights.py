"""A trained detector as the start of one for other classes: what both have in common is taken over, the rest stays as it was drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard
from detrkit.checkpoints.detector_weights import FOR_TRAINING, take_colours
from detrkit.checkpoints.loading import load
from detrkit.checkpoints.reading import check_finite
from detrkit.errors import CheckpointError
from detrkit.layers.denoising import ContrastiveDenoising
from detrkit.layers.proposals import TokenProposals
from detrkit.losses.sets import AllProposals
from detrkit.models.catalog import config_of, criterion_for
from detrkit.models.detector import Detector
from detrkit.models.dn_detr import LabelDenoising

# Settings in which a detector may differ from the one that it starts from.
_FREE = FOR_TRAINING | {
    *("class_count", "queries", "distinct_overlap", "mask_weight", "dice_weight"),
    *("denoising", "denoising_groups", "label_noise", "label_codes", "box_noise", "one_to_many_queries"),
}
_QUERIES = "query_source."  # what the names of learned queries begin with


@dataclass(frozen=True)
class Taken:
    """What a detector has from a trained one.

    Attributes:
        variant: of the trained one.
        kept: names of the classes whose outputs it has, as they are in its own data.
        reset: names of the classes whose outputs are as in any new detector.
        queries: number of queries of the trained one.
        queries_now: number of queries of the detector.
        queries_resized: whether weights of queries were left out or drawn; False where the numbers are equal or no weights depend on them.
    """

    variant: str
    kept: tuple[str, ...]
    reset: tuple[str, ...]
    queries: int
    queries_now: int
    queries_resized: bool


def load_start(model: Detector, path: str | Path) -> Taken:
    """Copies what a trained detector of the same family has learned, except for classes and queries that the new one does not share.

    Outputs of the class heads, and codes of classes, are kept where both have a class of that name; upper and lower case, spaces, hyphens
    and underscores make no difference. The output for "no object" and the code of no known class are kept, and so are all of proposals that
    only tell objects from background. Of learned queries the first ones are kept, also of those that exist in training only. Images get the
    colours (mean, deviation, order of channels) that the trained one had.

    Args:
        model: new, so that what is not copied is as in any new detector; changed in place.
        path: a file that detrkit, the paper's authors or Hugging Face wrote, or the folder of a run.

    Returns:
        What was kept, and what was not.

    Raises:
        CheckpointError: the file cannot be read, or holds a detector of another family, with other settings, or with numbers that are not
            finite; nothing is changed then.
    """
    trained = _trained(path, model.card.variant)
    _check_card(path, trained.card, model.card)
    own, given = model.state_dict(), trained.state_dict()
    pairs = _alike(model.card.categories, trained.card.categories)
    classes = dict(_class_rows(model, trained, [(mine.index, theirs.index) for mine, theirs in pairs]))
    queries = {name: rows for name, rows in _query_rows(model, trained) if name not in classes}
    rows = {**queries, **classes}
    if queries and model.card.config.get("centers") == "grid":
        raise CheckpointError(
            f"{path} has anchors on a grid for {trained.card.config['queries']} queries, of which no other number can be made: train with "
            f"--settings.queries {trained.card.config['queries']}"
        )
    for name in sorted(own.keys() | given.keys()):
        _check_tensor(path, model.card.variant, name, own.get(name), given.get(name), by_row=name in rows)
    for name, tensor in own.items():  # no copies, but what the model computes with
        if name in rows:
            mine, theirs = rows[name]
            tensor[mine] = given[name][theirs].to(tensor.dtype)
        else:
            tensor.copy_(given[name])
    take_colours(model, trained.card.preprocessing.colours)
    kept = {mine.index for mine, _ in pairs}
    return Taken(
        variant=trained.card.variant,
        kept=tuple(each.name for each in model.card.categories if each.index in kept),
        reset=tuple(each.name for each in model.card.categories if each.index not in kept),
        queries=trained.card.config["queries"],
        queries_now=model.card.config["queries"],
        queries_resized=bool(queries),
    )


def differing_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which a detector must be like the one that it starts from, and is not.

    Args:
        mine: settings of the detector.
        theirs: settings of the other one.

    Returns:
        The other one's values by their names.
    """
    return {
        name: theirs[name] for name, value in mine.items() if name not in _FREE and theirs.get(name, value) != value
    }


def _trained(path: str | Path, variant: str) -> Detector:
    """The detector in a file; where the file fits several variants, it is taken for the one that is trained."""
    try:
        return load(path)
    except CheckpointError as problem:
        if "`variant`" not in str(problem):
            raise
    return load(path, variant=variant)


def _check_card(path: str | Path, theirs: ModelCard, mine: ModelCard) -> None:
    """Refuses a detector of another family, or with other settings."""
    if theirs.family != mine.family:
        raise CheckpointError(
            f"{path} holds {theirs.variant}, and {mine.variant} is of another paper: give a detector of the same paper, or train {theirs.variant}"
        )
    others = differing_settings(mine.config, theirs.config)
    if others:
        values = " and ".join(f"{name}={value!r}" for name, value in others.items())
        here = " and ".join(f"{name}={mine.config[name]!r}" for name in others)
        remedy = " ".join(f"--settings.{name.replace('_', '-')} {_written(value)}" for name, value in others.items())
        raise CheckpointError(
            f"{path} was trained with {values}, and this {mine.variant} has {here}: train with {remedy}, or give another file"
        )


def _written(value: Any) -> str:
    """A setting as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def _alike(mine: Sequence[Category], theirs: Sequence[Category]) -> list[tuple[Category, Category]]:
    """Classes of both with the same name; where several names are alike, an equal one is taken."""
    equal = {each.name: each for each in reversed(theirs)}
    alike = {_plain(each.name): each for each in reversed(theirs)}
    found = [(each, equal.get(each.name) or alike.get(_plain(each.name))) for each in mine]
    return [(each, other) for each, other in found if other is not None]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


Rows = tuple[Tensor, Tensor]  # numbers of rows in the new tensor, and of those that they come from


def _class_rows(model: Detector, trained: Detector, pairs: list[tuple[int, int]]) -> Iterator[tuple[str, Rows]]:
    """Tensors with a row for each class, and which of their rows are kept.

    Args:
        model: the new detector.
        trained: the other one, whose tensors have the same names.
        pairs: outputs of both that stand for the same class.
    """
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    given = dict(trained.named_parameters())
    counts = model.card.config["class_count"], trained.card.config["class_count"]
    for part, by_place in _parts_of_classes(model):
        for tensor in part.parameters(recurse=False):
            name = names[id(tensor)]
            if name not in given:  # which is refused later
                continue
            lengths = len(tensor), len(given[name])
            kept = [(row, row) for row in range(min(lengths))] if by_place else list(pairs)
            each = lengths[0] // counts[0]  # rows of a class
            if not by_place and lengths == (counts[0] + 1, counts[1] + 1):
                kept.append(counts)  # the last row, for "no object" or no known class
            elif not by_place and each > 1:
                kept = [(each * mine + row, each * theirs + row) for mine, theirs in pairs for row in range(each)]
            yield name, (_numbers(mine for mine, _ in kept), _numbers(theirs for _, theirs in kept))


def _parts_of_classes(model: Detector) -> Iterator[tuple[nn.Module, bool]]:
    """Layers with a row for each class; and whether these rows stand for other things, so that their places count."""
    criterion = cast(nn.Module, criterion_for(model))
    sets = [each for part in criterion.modules() for each in getattr(part, "sets", ())]
    classless = any(isinstance(each, AllProposals) for each in sets)  # the first row is that of all objects
    for part in model.modules():
        if isinstance(part, ContrastiveDenoising | LabelDenoising):
            yield part.embedding, False
        elif (by_class := getattr(part, "by_class", None)) is not None:
            for layer in by_class():
                yield layer, False
        elif (pairs := getattr(part, "pairs", None)) is not None:
            for head, _ in pairs():
                yield head, classless and isinstance(part, TokenProposals)


def _query_rows(model: Detector, trained: Detector) -> Iterator[tuple[str, Rows]]:
    """Tensors of which both detectors have other rows for their queries: of each kind of queries the first ones are kept."""
    given, kinds, their_kinds = trained.state_dict(), _kinds_of_queries(model), _kinds_of_queries(trained)
    learned = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    for name, tensor in model.state_dict().items():
        other = given.get(name)
        if not name.startswith(_QUERIES) or other is None or not tensor.dim() == other.dim() > 0:
            continue
        if name in learned and (len(tensor), len(other)) == (sum(kinds), sum(their_kinds)) and kinds != their_kinds:
            always, more = (torch.arange(min(counts)) for counts in zip(kinds, their_kinds, strict=True))
            yield name, (torch.cat([always, kinds[0] + more]), torch.cat([always, their_kinds[0] + more]))
        elif len(tensor) != len(other):
            rows = torch.arange(min(len(tensor), len(other)))
            yield name, (rows, rows)


def _kinds_of_queries(model: Detector) -> tuple[int, int]:
    """How many queries a detector has always, and how many more in training."""
    config = config_of(model)
    return config.queries, config.training_queries - config.queries


def _numbers(values: Iterator[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)


def _check_tensor(
    path: str | Path, variant: str, name: str, own: Tensor | None, given: Tensor | None, *, by_row: bool
) -> None:
    """Refuses a tensor that only one of both has, of another shape, or with numbers that are not finite."""
    if own is None or given is None:
        raise CheckpointError(
            f"{path} {'has' if own is None else 'does not have'} '{name}', unlike this {variant}: train with the same settings"
        )
    first = 1 if by_row else 0
    if own.shape[first:] != given.shape[first:]:
        raise CheckpointError(
            f"{path} has '{name}' in the shape {tuple(given.shape)} instead of this {variant}'s {tuple(own.shape)}: train with the same settings"
        )
    check_finite(path, {name: given})
