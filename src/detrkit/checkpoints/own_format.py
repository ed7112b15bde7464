"""detrkit's own checkpoint: one safetensors file whose JSON header holds all that is needed to rebuild the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, Preprocessing
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.checkpoints.places import find_weights
from detrkit.checkpoints.reading import WeightFile, read_weights
from detrkit.errors import CheckpointError, ConfigurationError, MissingPackageError
from detrkit.files import expanded, write_atomically
from detrkit.models.catalog import FAMILIES, build_from_config, changed_config
from detrkit.models.detector import Detector, unwrapped

_HEADER = "detrkit"
# The entry of a file in the authors' or Hugging Face's form that holds the card: what these forms have no place for.
CARD_ENTRY = "detrkit_card"
# Format 1 had other names for parameters and settings (heads.classes, for example, became heads.class_head).
_FORMAT = 2
# torch.compile adds the first to names, parallel modules the second.
_WRAPPERS = ("_orig_mod", "module")
# What the names of parameters begin with that only training needs (`Detector.supervision`).
_FOR_TRAINING = "supervision."


def save(model: Detector | nn.Module, path: str | Path) -> Path:
    """Writes a model so that `load` restores it bit for bit, with its classes, preprocessing and metrics.

    Args:
        model: any detector; its card goes into the header. What torch.compile, DataParallel and similar wrappers add to names, around the
            whole or a part, is left out, and so is what only training needs (`Detector.supervision`).
        path: the file to write; must end in `.safetensors`.

    Raises:
        CheckpointError: another ending.
        ConfigurationError: this is no detector.
        OutputError: the file cannot be written.
    """
    detector = unwrapped(model)
    return Snapshot(detector.card, _on_cpu(detector)).save(path)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A model at some moment, which may be written later.

    Attributes:
        card: what the model is.
        tensors: its state on the CPU, by name.
    """

    card: ModelCard
    tensors: dict[str, Tensor]

    def save(self, path: str | Path) -> Path:
        """Writes the file that `save` would have written at that moment; errors are those of `save`."""
        path = expanded(path)
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path} must end in .safetensors: that is the only format detrkit writes")
        return write_tensors(path, self.tensors, {_HEADER: card_text(self.card)})


def snapshot(model: Detector | nn.Module) -> Snapshot:
    """A copy of a model's weights and card, which what happens to the model later does not change.

    Args:
        model: as `save` takes it.
    """
    detector = unwrapped(model)
    return Snapshot(detector.card, {name: tensor.clone() for name, tensor in _on_cpu(detector).items()})


def _on_cpu(detector: Detector) -> dict[str, Tensor]:
    named = ((_plain_name(name), tensor) for name, tensor in detector.state_dict().items())
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named if not name.startswith(_FOR_TRAINING)}


def write_pickled(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes what `torch.load` reads, as a whole or not at all.

    Args:
        path: the file.
        content: tensors and plain values.

    Raises:
        OutputError: it cannot be written.
    """

    def write(file: Path) -> None:
        try:
            torch.save(dict(content), file)
        except RuntimeError as problem:  # which PyTorch raises where a disk is full
            raise OSError("not enough room, or an error of the disk") from problem

    return write_atomically(path, write)


def card_text(card: ModelCard) -> str:
    """A card as files hold it."""
    return json.dumps({"format": _FORMAT, **dataclasses.asdict(card)})


def store_thresholds(
    path: str | Path, threshold: float, class_thresholds: Mapping[int, float], nms: float | None = None
) -> Path:
    """Replaces the thresholds and the NMS value in a file that `save` wrote; its weights and all else in its header stay as they are.

    Args:
        path: the file, or a folder as `load` takes it; a link to the file stays a link.
        threshold: the lowest score at which a detection is worth showing.
        class_thresholds: the same for single classes, by `Category.index`.
        nms: see `ModelCard.nms`.

    Returns:
        The file, without links.

    Raises:
        CheckpointError: the file cannot be read, or `save` did not write it.
        OutputError: the file cannot be written.
    """
    path = find_weights(path).resolve()
    file = own_file(path)
    header = json.loads(file.metadata[_HEADER])
    header |= {"threshold": threshold, "class_thresholds": dict(class_thresholds), "nms": nms}
    return write_tensors(path, file.tensors, {**file.metadata, _HEADER: json.dumps(header)})


def own_file(path: str | Path) -> WeightFile:
    """The content of a file that `save` wrote; the path is one that `load` takes, so it may begin with `~` or be a run's folder.

    Raises:
        CheckpointError: the file cannot be read, or `save` did not write it, or another version of detrkit did.
    """
    file = read_weights(path)
    if not is_own(file):
        raise CheckpointError(
            f"{file.path} is not a checkpoint of detrkit, so thresholds cannot be stored in it: load it and write it with detrkit.save first"
        )
    _card_in(file)
    return file


def _plain_name(name: str) -> str:
    """A tensor's name without what wrappers of a part add to it; no part of a detector has such a name."""
    return ".".join(component for component in name.split(".") if component not in _WRAPPERS)


def is_own(file: WeightFile) -> bool:
    """Whether `save` wrote the file."""
    return _HEADER in file.metadata


def accompanying_card(file: WeightFile) -> ModelCard | None:
    """The card that detrkit put into a file of another form; None if it did not write the file.

    Raises:
        CheckpointError: the card is damaged, or comes from another version of detrkit.
    """
    return _card_in(file, CARD_ENTRY) if CARD_ENTRY in file.metadata else None


def restore(file: WeightFile) -> Detector:
    """The model that `save` wrote, in eval mode.

    Raises:
        CheckpointError: the header comes from a newer detrkit, names an unknown family, has settings that cannot be built, needs a package that is
            not installed, or does not fit the tensors.
    """
    model = blank_model(file, _card_in(file))
    try:
        model.load_state_dict(file.tensors, assign=True)  # with the file's types, so that the model is what was saved
    except RuntimeError as problem:
        raise CheckpointError(
            f"{file.path} does not hold the tensors that its own header describes: write it again"
        ) from problem
    model.backbone.to(memory_format=torch.channels_last)
    return model.eval()


def blank_model(file: WeightFile, card: ModelCard) -> Detector:
    """The model that a card describes, whose weights are still to be filled in.

    Raises:
        CheckpointError: this detrkit does not know its family, or cannot build its settings.
    """
    if card.family not in FAMILIES:
        raise CheckpointError(
            f"{file.path} holds a model of the family '{card.family}', which this detrkit does not know"
        )
    try:
        config = changed_config(FAMILIES[card.family].Config(), dict(card.config))
        with WithoutRandomValues():
            model = build_from_config(
                card.family, card.variant, config, categories=card.categories, preprocessing=card.preprocessing
            )
    except MissingPackageError as problem:
        raise CheckpointError(f"{file.path} cannot be loaded here: {problem}") from problem
    except (ConfigurationError, TypeError) as problem:
        raise CheckpointError(
            f"{file.path} has settings that this detrkit cannot use ({problem}): install a newer detrkit"
        ) from problem
    model.card = card
    return model


def _card_in(file: WeightFile, entry: str = _HEADER) -> ModelCard:
    """The card in a file, if it has this version's format."""
    try:
        header = json.loads(file.metadata[entry])
        file_format = header.get("format")
        if file_format == _FORMAT:
            return _card(header)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{file.path} has a damaged header ({problem}): write it again") from problem
    if isinstance(file_format, int) and file_format < _FORMAT:
        raise CheckpointError(
            f"{file.path} was written by an older detrkit, whose names of parameters and settings have changed since: "
            "train again, or load the authors' file again"
        )
    raise CheckpointError(
        f"{file.path} has format {file_format}, this detrkit reads format {_FORMAT}: install a newer detrkit"
    )


def _card(header: Mapping[str, Any]) -> ModelCard:
    preprocessing = dict(header["preprocessing"])
    for name in ("mean", "deviation"):
        preprocessing[name] = tuple(preprocessing[name])
    return ModelCard(
        family=header["family"],
        variant=header["variant"],
        config={name: frozen(value) for name, value in header["config"].items()},
        categories=tuple(Category(**entry) for entry in header["categories"]),
        preprocessing=Preprocessing(**preprocessing),
        threshold=header["threshold"],
        # JSON turns numbers that are keys into texts; files from before there were such thresholds have none.
        class_thresholds={int(index): value for index, value in header.get("class_thresholds", {}).items()},
        nms=header.get("nms"),  # files from before there was such a value have none
        metrics=header["metrics"],
    )


def frozen(value: Any) -> Any:
    """A setting as it was before JSON turned its tuples into lists; configurations hold only tuples."""
    return tuple(frozen(entry) for entry in value) if isinstance(value, list) else value


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Writes a safetensors file atomically; see `write_atomically`."""

    def write(temporary: Path) -> None:
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as problem:  # a full disk, for example
            raise OSError(str(problem)) from problem
        temporary.chmod(mode)  # the library makes a file that only its owner may read

    return write_atomically(path, write)
