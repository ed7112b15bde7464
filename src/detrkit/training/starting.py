"""What a run starts from: which weights it takes, where they are, and a line that says so."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from detrkit.cards import Colours
from detrkit.checkpoints import load_backbone_weights, load_detector, load_queries
from detrkit.checkpoints.downloads import fetch, place_of
from detrkit.checkpoints.places import find_weights
from detrkit.checkpoints.published import Offer, coco_offer, imagenet_offer
from detrkit.checkpoints.start_weights import Taken, differing_settings, load_start
from detrkit.data.wording import counted, first_few
from detrkit.errors import CheckpointError, OptionError
from detrkit.files import expanded
from detrkit.models.catalog import find_variant
from detrkit.models.detector import Detector
from detrkit.training.training_options import TrainingOptions

COCO, BACKBONE, NONE = "coco", "backbone", "none"
WORDS = (COCO, BACKBONE, NONE)  # a file of such a name is given as ./coco
IMAGENET = "imagenet"


@dataclass(frozen=True)
class StartingFiles:
    """Where the weights are that a run starts from, apart from queries and detectors that stay as they are.

    Attributes:
        detector: a trained detector; None without one.
        backbone: a trained backbone; None without one.
        missing: what a dry run leaves to the run to download.
    """

    detector: Path | None = None
    backbone: Path | None = None
    missing: Offer | None = None


def chosen_weights(options: TrainingOptions, config: Any) -> str:
    """What a run starts from: "coco", "backbone", "none" or an absolute path.

    Unless it is given: nothing, if one of the options for a part is given; COCO weights, if they can be downloaded or were put into the cache,
    and the settings are theirs; ImageNet weights, if there are any for the backbone.

    Args:
        options: those of a new run.
        config: the model's configuration.

    Raises:
        OptionError: what was given is no such word, and no path.
    """
    given = options.weights
    if given in WORDS:
        return str(given)
    if given is not None:
        if Path(given).name == given and not Path(given).suffix and not expanded(given).exists():
            raise OptionError(
                f"weights must be {', '.join(WORDS)}, or a file or run folder that exists, not '{given}'", "weights"
            )
        return located_weights(given)
    if any(each is not None for each in (options.backbone_weights, options.queries_from, options.detector_from)):
        return NONE
    offer = coco_offer(options.variant)
    if offer is not None and _is_at_hand(offer) and not _unusual_settings(options.variant, dataclasses.asdict(config)):
        return COCO
    return NONE if imagenet_offer(config.backbone) is None else BACKBONE


def located_weights(path: str) -> str:
    """The absolute path of a weight file, so that a run is the same from any working directory; an address stays as it is, to be refused."""
    return path if re.match("https?:/", path) else str(expanded(path).absolute())


def _is_at_hand(offer: Offer) -> bool:
    """Whether a file can be downloaded, or was put where it is looked for."""
    return offer.downloadable or place_of(offer).is_file()


def _unusual_settings(variant: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings because of which a model cannot start from weights of its variant."""
    return list(differing_settings(settings, dataclasses.asdict(find_variant(variant).config)))


def check_start(options: TrainingOptions) -> None:
    """Refuses weights that nobody published, and weights of which one would replace the other.

    Args:
        options: of a new run or of one that goes on.

    Raises:
        OptionError: there are such weights.
    """
    backbone = options.settings.get("backbone", find_variant(options.variant).config.backbone)
    whole = options.weights not in (None, NONE, BACKBONE)
    if options.weights == COCO and coco_offer(options.variant) is None:
        raise OptionError(
            f"there are no published COCO weights of {options.variant}: leave weights out, or give a file of your own",
            "weights",
        )
    wanted = {"weights": options.weights == BACKBONE, "backbone_weights": options.backbone_weights == IMAGENET}
    for name in (name for name, is_wanted in wanted.items() if is_wanted):
        if imagenet_offer(str(backbone)) is None:
            raise OptionError(
                f"there are no published ImageNet weights of the backbone {backbone}: leave {name} out", name
            )
    if options.backbone_weights is not None and (whole or (wanted["weights"] and not wanted["backbone_weights"])):
        raise OptionError(
            "weights already gives the backbone, and backbone_weights would replace it: leave one of them out",
            "weights",
            "backbone_weights",
        )


def wanted_offer(options: TrainingOptions) -> Offer | None:
    """The published file that a run starts from; None if it starts from none.

    Args:
        options: the resolved options.
    """
    if options.weights == COCO:
        return coco_offer(options.variant)
    if options.weights == BACKBONE or options.backbone_weights == IMAGENET:
        return imagenet_offer(options.settings["backbone"])
    return None


def missing_offer(options: TrainingOptions) -> Offer | None:
    """The published file that a run would download first; None if there is nothing to download."""
    offer = wanted_offer(options)
    return offer if offer is not None and not place_of(offer).is_file() else None


def starting_files(options: TrainingOptions, console: Console, *, download: bool) -> StartingFiles:
    """Finds the weights that a run starts from, and downloads published ones that are not there yet.

    Args:
        options: the resolved options.
        console: shows how far a download is.
        download: False to leave downloads to the run.

    Raises:
        CheckpointError: a file is not there, or cannot be downloaded.
        OutputError: the folder of downloads cannot be written.
    """
    for path in (options.queries_from, options.detector_from):
        if path is not None:
            find_weights(path)
    missing = missing_offer(options)
    if missing is not None and missing.downloadable and not download:
        return StartingFiles(missing=missing)
    offer = wanted_offer(options)
    file = None if offer is None else _fetched(offer, console)
    if options.weights == COCO:
        return StartingFiles(detector=file)
    detector = None if options.weights in (None, *WORDS) else Path(str(options.weights))
    if detector is not None:
        find_weights(detector)
    if options.backbone_weights not in (None, IMAGENET):
        file = find_weights(str(options.backbone_weights))
    return StartingFiles(detector=detector, backbone=file)


def _fetched(offer: Offer, console: Console) -> Path:
    try:
        return fetch(offer, console)
    except CheckpointError as problem:
        raise CheckpointError(
            f"{problem}; or start from another file, with --weights FILE or --backbone-weights FILE"
        ) from problem


def begin(model: Detector, options: TrainingOptions, files: StartingFiles) -> str:
    """Loads what a new run starts from.

    Args:
        model: the new model; changed in place.
        options: the resolved options.
        files: what `starting_files` found.

    Returns:
        What it is, as a sentence.

    Raises:
        CheckpointError: a file does not fit the model.
    """
    usual = model.card.preprocessing.colours
    if options.detector_from is not None:
        load_detector(model, options.detector_from)
    taken = None if files.detector is None else load_start(model, files.detector)
    if files.backbone is not None:
        load_backbone_weights(model.backbone, files.backbone)
    if options.queries_from is not None:
        load_queries(model, options.queries_from)
    if files.missing is not None:
        return (
            f"Will start from the {files.missing.what}, which the run downloads first: {files.missing.address} to {place_of(files.missing)} "
            f"({files.missing.licence})."
        )
    details = "" if taken is None else f": {in_words(taken)}"
    own = model.card.preprocessing.colours
    colours = "" if own == usual else f" Images get its colours: {_colours_in_words(own)}."
    return f"Starts from {began_with(options)}{details}.{colours}{_why_no_more(options, model.card.config)}"


def _colours_in_words(colours: Colours) -> str:
    mean, deviation = (", ".join(f"{value:.4g}" for value in values) for values in colours[:2])
    return f"mean {mean}, deviation {deviation}, {colours.channels}"


def began_with(options: TrainingOptions) -> str:
    """The weights that a run began with, in words.

    Args:
        options: the resolved options.
    """
    if options.detector_from is not None:
        return f"the detector in {options.detector_from}, which stays as it is; the mask head at random"
    offer, parts = wanted_offer(options), []
    if offer is not None:
        parts.append(f"the {offer.what}")
    elif options.backbone_weights is not None:
        parts.append(f"the backbone's weights in {options.backbone_weights}")
    if options.weights not in (None, *WORDS):
        parts.append(f"the detector in {options.weights}")
    if options.queries_from is not None:
        parts.append(f"the queries in {options.queries_from}")
    if not parts:
        return "random weights"
    whole = options.weights not in (None, NONE, BACKBONE)
    return " and ".join(parts) + ("" if whole else "; everything else at random")


def has_own_queries(options: TrainingOptions) -> bool:
    """Whether a run draws its queries, and does not begin with those of a trained detector."""
    return options.queries_from is None and options.weights in (None, NONE, BACKBONE)


def in_words(taken: Taken) -> str:
    """What a detector has from a trained one, in words."""
    number = len(taken.kept) + len(taken.reset)
    if not taken.kept:
        classes = f"none of its classes has the name of one of the {number} here, which are all reset ({first_few(taken.reset)})"
    elif not taken.reset:
        classes = f"all {number} classes kept ({first_few(taken.kept)})"
    else:
        classes = f"{len(taken.kept)} of {number} classes kept ({first_few(taken.kept)}), {len(taken.reset)} reset ({first_few(taken.reset)})"
    return "; ".join(each for each in (classes, _queries_in_words(taken)) if each)


def _queries_in_words(taken: Taken) -> str:
    before, now = taken.queries, taken.queries_now
    if before == now:
        return ""
    if not taken.queries_resized:
        return f"{now} queries instead of {before}, which come from proposals"
    if now < before:
        return f"the first {now} of its {before} queries kept"
    return f"its {counted(before, 'query', 'queries')} kept, {now - before} new ones drawn"


def _why_no_more(options: TrainingOptions, config: Mapping[str, Any]) -> str:
    """A hint at better weights, which no program can download, or which do not fit the settings."""
    offer = coco_offer(options.variant)
    if options.weights != BACKBONE or offer is None:
        return ""
    if unusual := _unusual_settings(options.variant, config):
        return f" Its authors' COCO weights are of other settings ({', '.join(unusual)})."
    return "" if _is_at_hand(offer) else " Its authors' COCO weights can only be got by hand: --weights coco tells how."
