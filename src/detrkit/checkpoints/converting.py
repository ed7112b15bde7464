"""Writes detectors as other code reads them: the authors' files, and folders of Hugging Face."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from detrkit.cards import Category
from detrkit.checkpoints.hugging_face import PROCESSOR_FILE, HuggingFaceForm, has_backbone, processor_file
from detrkit.checkpoints.loading import load, to_official
from detrkit.checkpoints.own_format import CARD_ENTRY, card_text, save, write_pickled, write_tensors
from detrkit.checkpoints.places import find_weights
from detrkit.checkpoints.recognition import TABLES
from detrkit.errors import CheckpointError, ConfigurationError, OptionError, OutputError
from detrkit.files import expanded, new_folder, refuse_folder, write_json
from detrkit.models.catalog import config_of, has_masks
from detrkit.models.detector import Detector, unwrapped
from detrkit.models.tsp import TSPSettings

FormName = Literal["own", "authors", "huggingface"]
_FILES = ("config.json", "model.safetensors", PROCESSOR_FILE)
_SUFFIXES: dict[str, FormName] = {".safetensors": "own", ".pth": "authors", ".pt": "authors"}
_ENDINGS = {"own": ".safetensors", "authors": ".pth"}


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the file or folder.
        form: its form.
        variant: the model's name in the catalog.
        architecture: the class of `transformers` that opens it; empty in other forms.
        notes: sentences on what to know about it.
    """

    path: Path
    form: FormName
    variant: str
    architecture: str = ""
    notes: tuple[str, ...] = ()


def convert_weights(
    source: str | Path,
    output: str | Path,
    *,
    to: FormName | None = None,
    timm_backbone: bool | None = None,
    variant: str | None = None,
    classes: Sequence[str | Category] | None = None,
    force: bool = False,
) -> Converted:
    """Writes the model of a file in another form.

    Classes, thresholds, preprocessing and measured figures travel along: what a form has no place for is kept in an entry that other code
    does not look at.

    Args:
        source: as `load` takes it.
        output: the file to write, or the folder for Hugging Face.
        to: the form; None goes by the output's ending: `.safetensors` is detrkit's own, `.pth` the authors', and none Hugging Face's.
        timm_backbone: for Hugging Face, whether the backbone is timm's or `transformers`' own; None takes the latter unless only timm has it.
        variant: see `load`.
        classes: see `load`.
        force: whether an output that exists is replaced; of a folder only the files that are written.

    Raises:
        CheckpointError: the source cannot be read, or its model has no such form.
        ConfigurationError: the form is not clear, or does not fit the other arguments.
        OutputError: the output exists, or cannot be written.
    """
    output = expanded(output)
    form = to or _form_by_name(output)
    _check_names(output, form, timm_backbone)
    _check_free(output, find_weights(source), force=force)
    model = load(source, variant=variant, classes=classes)
    if form == "huggingface":
        notes = save_hugging_face(model, output, timm_backbone=timm_backbone, force=force)
        architecture = _form_for(model).architecture
        return Converted(output, form, model.card.variant, architecture, notes)
    (save if form == "own" else save_authors)(model, output)
    return Converted(output, form, model.card.variant)


def save_authors(model: Detector | nn.Module, path: str | Path) -> Path:
    """Writes a model as its paper's authors do: tensors by their names under `model`, and options as a dictionary under `args`.

    Args:
        model: any detector.
        path: the file to write; must end in `.pth` or `.pt`.

    Raises:
        CheckpointError: the authors' code builds no such model, or another ending.
        OutputError: the file cannot be written.
    """
    detector, path = unwrapped(model), expanded(path)
    if _SUFFIXES.get(path.suffix) != "authors":
        raise CheckpointError(f"{path} must end in .pth: that is what the authors' files do")
    table, config = TABLES[detector.card.family], config_of(detector)
    if table.ours_alone:
        raise CheckpointError(f"{detector.card.variant} has no authors' form, since {table.ours_alone}")
    where = "the authors' code"
    if not has_backbone(config.backbone) or config.backbone.endswith("-c4"):
        raise CheckpointError(
            f"{detector.card.variant} has no authors' form: its backbone is {config.backbone}, and {where} builds whole ResNets only"
        )
    if config.backbone.endswith("-caffe") and not isinstance(config, TSPSettings):
        raise CheckpointError(
            f"{detector.card.variant} has no authors' form: its backbone is {config.backbone}, and {where} has the stride in another convolution"
        )
    _check_fixed(detector, table.fixed, where)
    weights = to_official(_tensors(detector), detector)
    content = {"model": weights, "args": _arguments(config), CARD_ENTRY: card_text(detector.card)}
    return write_pickled(path, content)


def save_hugging_face(
    model: Detector | nn.Module, folder: str | Path, *, timm_backbone: bool | None = None, force: bool = False
) -> tuple[str, ...]:
    """Writes a model as a folder that `transformers` opens with `from_pretrained`: weights, settings, and how images are prepared.

    Args:
        model: a detector of DETR, Conditional DETR, DAB-DETR or Deformable DETR with a ResNet, or DETR with masks.
        folder: the folder to write, new or empty.
        timm_backbone: see `convert_weights`.
        force: see `convert_weights`.

    Returns:
        Sentences on what to know about it.

    Raises:
        CheckpointError: `transformers` has no such model.
        OutputError: the folder cannot be written.
    """
    detector, folder = unwrapped(model), expanded(folder)
    card, config = detector.card, config_of(detector)
    form = _form_for(detector)
    timm = config.backbone.endswith("-dc5") if timm_backbone is None else timm_backbone
    _check_backbone(card.variant, config.backbone, timm=timm)
    dtype = str(next(detector.parameters()).dtype).removeprefix("torch.")
    try:
        settings = form.settings_file(config, card.categories, timm=timm, dtype=dtype)
    except CheckpointError as problem:
        raise CheckpointError(f"{card.variant} has no Hugging Face form: {problem}") from problem
    tensors = form.names(config, timm).to_foreign(_tensors(detector))
    processor = processor_file(form, card.preprocessing, panoptic=has_masks(card.variant))
    with _files_in(folder, force=force) as place:
        write_json(place / "config.json", settings)
        separate = {name: tensor.clone() for name, tensor in tensors.items()}  # the format has no tensors in two places
        write_tensors(place / "model.safetensors", separate, {"format": "pt", CARD_ENTRY: card_text(card)})
        write_json(place / PROCESSOR_FILE, processor)
    notes = (f"Note: {form.note}" if form.note else "", _TIMM_NOTE if timm else "")
    return tuple(note for note in notes if note)


_TIMM_NOTE = "Note: the backbone is timm's, so opening the model needs the package timm beside transformers."


def _form_by_name(output: Path) -> FormName:
    if output.suffix in _SUFFIXES and not output.is_dir():
        return _SUFFIXES[output.suffix]
    if output.suffix and not output.is_dir():
        raise ConfigurationError(
            f"{output} has the ending of no form: end it in .safetensors (detrkit) or .pth (authors), or give a folder's name (Hugging Face)"
        )
    return "huggingface"


def _check_names(output: Path, form: FormName, timm_backbone: bool | None) -> None:
    if timm_backbone is not None and form != "huggingface":
        raise OptionError("timm_backbone is for Hugging Face's form only: leave it out", "timm_backbone")
    if form == "huggingface" and output.suffix in (*_SUFFIXES, ".bin"):
        raise ConfigurationError(
            f"{output} would be a folder in Hugging Face's form: leave {output.suffix} out of its name"
        )
    if form != "huggingface" and _SUFFIXES.get(output.suffix) != form:
        refuse_folder(output)
        raise ConfigurationError(f"{output} must end in {_ENDINGS[form]}, as files in the form '{form}' do")


def _check_free(output: Path, source: Path, *, force: bool) -> None:
    """Refuses an output that exists, or that is the source, before anything is loaded."""
    if source.resolve() in {output.resolve(), (output / "model.safetensors").resolve()}:
        raise OutputError(f"{output} would replace what is read: choose another path")
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() and not force:
        raise OutputError(f"{output} exists: choose another path, or replace it with --force (force=True in Python)")


def _form_for(model: Detector) -> HuggingFaceForm:
    card, table = model.card, TABLES[model.card.family]
    if table.hugging_face is None:
        raise CheckpointError(
            f"{card.variant} has no Hugging Face form, since transformers has no {table.paper.name} that computes the same"
        )
    _check_fixed(model, table.hugging_face.fixed, "transformers")
    return table.hugging_face


def _check_fixed(model: Detector, fixed: Mapping[str, Any], where: str) -> None:
    """Refuses settings with which other code would compute something else."""
    config = config_of(model)
    for name, value in fixed.items():
        own = getattr(config, name)
        if own != value:
            raise CheckpointError(
                f"{model.card.variant} has {name} {own!r}, and {where} computes as with {value!r}: it has no such form"
            )


def _check_backbone(variant: str, backbone: str, *, timm: bool) -> None:
    if not has_backbone(backbone):
        raise CheckpointError(
            f"{variant} has no Hugging Face form: its backbone is {backbone}, and transformers builds it with ResNets only"
        )
    if backbone.endswith("-caffe"):
        raise CheckpointError(
            f"{variant} has no Hugging Face form: its backbone is {backbone}, and other code has the stride in another convolution"
        )
    if timm and backbone.endswith("-c4"):
        raise CheckpointError(
            f"{variant} has no form with timm's backbone, which keeps its last stage: leave it to transformers"
        )
    if not timm and backbone.endswith("-dc5"):
        raise CheckpointError(f"{variant} has a dilated backbone, which transformers has from timm only: take timm's")


def _tensors(model: Detector) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _arguments(config: Any) -> dict[str, Any]:
    """The options that all these authors share, in a dictionary: PyTorch now refuses to read their namespace."""
    network, _, kind = config.backbone.partition("-")
    return {
        "backbone": network,
        "dilation": kind == "dc5",
        "enc_layers": config.encoder_layers,
        "dec_layers": config.decoder_layers,
        "dim_feedforward": config.hidden,
        "hidden_dim": config.width,
        "dropout": config.dropout,
        "nheads": config.attention_heads,
    }


def _is_hugging_face(folder: Path) -> bool:
    """Whether a folder is one that `transformers` opens; the folder of a run has a `config.json` of another kind."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content


def _exchange(new: Path, folder: Path) -> None:
    """Puts the files of one folder in the place of another's; where that fails in between, the old ones come back."""
    old = new / "old"
    old.mkdir()
    present = [name for name in _FILES if (folder / name).exists()]
    try:
        for name in present:
            (folder / name).replace(old / name)
        for name in _FILES:
            (new / name).replace(folder / name)
    except BaseException:
        for name in present:
            if (old / name).exists():
                (old / name).replace(folder / name)
        raise


@contextmanager
def _files_in(folder: Path, *, force: bool) -> Iterator[Path]:
    """A place for the files of a folder, which appear there once all of them are complete."""
    if not (force and folder.is_dir() and any(folder.iterdir())):
        if force and folder.is_file():
            raise OutputError(f"{folder} is a file, and a folder is to be written: choose another path")
        with new_folder(folder) as place:
            yield place
        return
    if not _is_hugging_face(folder):
        raise OutputError(f"{folder} holds other things than a Hugging Face model: choose another folder")
    hidden = folder / f".{folder.name}-new"
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        with new_folder(hidden) as place:
            yield place
        _exchange(hidden, folder)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise OutputError(
            f"{folder} cannot be written ({problem.strerror or problem}): choose another path"
        ) from problem
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
