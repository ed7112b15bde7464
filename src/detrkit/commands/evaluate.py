"""`detrkit evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from detrkit.coco_limits import MAX_DETECTIONS, check_max_detections
from detrkit.commands.values import PathText, VariantText
from detrkit.errors import ConfigurationError
from detrkit.files import check_folder, created_folders_note, expanded, prepare_files
from detrkit.terminal import terminal

if TYPE_CHECKING:
    from detrkit.cards import ModelCard
    from detrkit.data import DetectionDataset
    from detrkit.data.opening import Masks
    from detrkit.evaluation import Analysis, Evaluation, PanopticEvaluation
    from detrkit.evaluation.classes import MatchBy
    from detrkit.models.detector import Detector

_LOOKED_AT = 256  # bytes of a file's beginning
_BLANKS = b"\xef\xbb\xbf \t\r\n"


def evaluate(
    checkpoint: Path,
    *,
    data: PathText,
    split: Annotated[str | None, Parameter(show_default=lambda _: "val")] = None,
    variant: VariantText = None,
    batch_size: Annotated[int | None, Parameter(show_default=lambda _: "1")] = None,
    workers: Annotated[int | None, Parameter(show_default=lambda _: "0")] = None,
    device: Annotated[str | None, Parameter(show_default=lambda _: "auto")] = None,
    output: Path | None = None,
    results: Path | None = None,
    report: Path | None = None,
    charts: Path | None = None,
    masks: Literal["instances", "panoptic"] | None = None,
    orientation: Annotated[Literal["auto", "stored", "shown"] | None, Parameter(show_default=lambda _: "auto")] = None,
    stretch_16bit: bool = False,
    max_detections: int = MAX_DETECTIONS,
    match_by: Annotated[Literal["auto", "name", "id"] | None, Parameter(show_default=lambda _: "auto")] = None,
    nms: float | None = None,
    store_thresholds: bool = False,
) -> None:
    """COCO figures for a model on a data set, or for a result file against ground truth, and what goes wrong.

    Boxes are compared, masks too where both sides have them, and panoptic segments by their quality (PQ).

    Args:
        checkpoint: a checkpoint, the folder of a run, or a JSON file with results in COCO's format, such as `predict` writes: detections or
            panoptic segments.
        data: folder or annotation file of a data set, or "digits"; a result file needs no pictures beside an annotation file. Panoptic results
            need panoptic annotations.
        split: split to evaluate on; an annotation file that a result file is compared with is taken as a whole.
        variant: name of the checkpoint's variant, if the file does not say; like the next three, not for a result file.
        batch_size: images that go through the model together; the figures do not depend on it.
        workers: processes that load images.
        device: auto, cpu, cuda, cuda:1 or mps.
        output: JSON file for the figures and the analysis.
        results: JSON file for all detections, in COCO's format.
        report: HTML file for figures, charts, errors and pictures; it needs no other file.
        charts: folder for the report's charts as PNG files.
        masks: what a model with masks is compared with: "instances" (objects) or "panoptic" (objects and stuff, with panoptic quality); by
            default panoptic segments where the data have stuff.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value.
        max_detections: how many detections count: the best of each image, and of a result file the best of each class in an image.
        match_by: how a model's classes find those of the data: by "name", by "id", or "auto": by name, where a model is refused that knows less
            than half of the classes that have objects. Classes without a partner count as never found.
        nms: leave out detections that overlap a better one of their class by more than this IoU (0 to 1); none by default.
        store_thresholds: whether the best thresholds are stored in the checkpoint, which must be one of detrkit; `predict` then uses them. An
            NMS value is stored with them: that of --nms, or 0.7 if it raises AP by more than chance.
    """
    from detrkit.checkpoints.places import find_weights
    from detrkit.data.places import find_data
    from detrkit.models.listing import check_name
    from detrkit.prediction.suppression import check_nms

    check_max_detections(max_detections)
    check_nms(nms)
    is_result_file = checkpoint.suffix.lower() == ".json"
    for_model = {
        "--variant": variant,
        "--batch-size": batch_size,
        "--workers": workers,
        "--device": device,
        "--match-by": match_by,
        "--nms": nms,
        "--masks": masks,
    }
    _check_options(checkpoint, is_result_file, for_model | {"--results": results}, store_thresholds)
    without_pictures = is_result_file and _is_annotation_file(data)
    if without_pictures:
        for_pictures = {"--split": split, "--orientation": orientation, "--stretch-16bit": stretch_16bit or None}
        _refuse_given(for_pictures, "a data set with pictures", f"{data} is an annotation file, taken as a whole")
    if variant is not None:
        check_name(variant)
    if not is_result_file:
        find_weights(checkpoint)  # before PyTorch is loaded
    find_data(data)
    missing = prepare_files({"--output": output, "--results": results, "--report": report}, (checkpoint, Path(data)))
    missing += [] if charts is None else check_folder(charts)

    if is_result_file and _is_panoptic(checkpoint):
        given = {"--charts": charts, "--max-detections": None if max_detections == MAX_DETECTIONS else max_detections}
        _refuse_given(given, "detections", f"{checkpoint} holds panoptic segments")
        _evaluate_segments(checkpoint, data, split, output=output, report=report)
        if created := created_folders_note(missing):
            terminal().print(created)
        return
    from detrkit.data import open_dataset
    from detrkit.evaluation.tables import detailed_table

    model = None if is_result_file else _model(checkpoint, variant, device or "auto", own=store_thresholds)
    dataset = None
    if not without_pictures:
        opening = partial(
            open_dataset, data, split or "val", orientation=orientation or "auto", stretch_16bit=stretch_16bit
        )
        dataset = opening() if model is None else _with_masks(model, data, masks, opening)
    if model is None or dataset is None:
        compared = _of_result_file(checkpoint, expanded(data) if dataset is None else dataset, max_detections)
    else:
        compared = _of_model(
            model,
            dataset,
            batch_size=1 if batch_size is None else batch_size,
            workers=workers or 0,
            max_detections=max_detections,
            match_by=match_by or "auto",
            nms=nms,
        )
    stored = None
    try:
        _write_files(compared, dataset, checkpoint, data, output=output, results=results, report=report, charts=charts)
        stored = _stored(checkpoint, compared) if store_thresholds else None
    finally:  # after the files, since nobody may be there to read it, but also where one of them cannot be written
        console = terminal()
        console.print(detailed_table(compared.evaluation, compared.analysis))
        if compared.segments is not None:
            console.print(compared.segments.table())
    for line in (stored, created_folders_note(missing)):
        if line:
            console.print(line)


@dataclass(frozen=True)
class _Compared:
    """What an evaluation gives; the last three only for a model, and segments only for one that is compared with some."""

    evaluation: Evaluation
    analysis: Analysis
    entries: list[dict[str, Any]]
    file_entries: list[dict[str, Any]]
    card: ModelCard | None
    segments: PanopticEvaluation | None = None


def _check_options(checkpoint: Path, is_result_file: bool, for_model: dict[str, Any], store_thresholds: bool) -> None:
    """Refuses impossible numbers, and options that are for models only, before anything is read."""
    for option, least in (("--batch-size", 1), ("--workers", 0)):
        number = for_model[option]
        if number is not None and number < least:
            raise ConfigurationError(f"{option} must be at least {least}, not {number}")
    if is_result_file and for_model.pop("--results") is not None:
        raise ConfigurationError("--results needs a checkpoint: a result file is not written again")
    if is_result_file:
        _refuse_given(for_model, "a checkpoint", f"{checkpoint} is a result file")
    if is_result_file and store_thresholds:
        raise ConfigurationError(f"--store-thresholds needs a checkpoint of detrkit, and {checkpoint} is a result file")


def _refuse_given(options: dict[str, Any], needed: str, but: str) -> None:
    """Refuses options that would have no effect; those that were not given are None."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        need, them = ("needs", "it") if len(given) == 1 else ("need", "them")
        raise ConfigurationError(f"{', '.join(given)} {need} {needed}, and {but}: leave {them} out")


def _write_files(
    compared: _Compared,
    dataset: DetectionDataset | None,
    checkpoint: Path,
    data: PathText,
    *,
    output: Path | None,
    results: Path | None,
    report: Path | None,
    charts: Path | None,
) -> None:
    """Writes all files that were asked for."""
    from detrkit.files import write_json

    if results is not None:
        write_json(results, compared.file_entries)
    if output is not None:
        panoptic = {} if compared.segments is None else {"panoptic": compared.segments.to_json()}
        write_json(output, {**compared.evaluation.to_json(), "analysis": compared.analysis.to_json(), **panoptic})
    if report is None and charts is None:
        return
    from detrkit.evaluation.report import evaluation_sections, panoptic_sections, write_charts, write_report

    pictures = 8 if report is not None else 0
    sections = evaluation_sections(compared.evaluation, compared.analysis, dataset, compared.entries, pictures=pictures)
    if compared.segments is not None:
        sections += panoptic_sections(compared.segments)
    if charts is not None:
        write_charts(charts, sections)
    if report is not None:
        write_report(
            report, f"Evaluation of {checkpoint.name}", sections, subtitle=_subtitle(compared, checkpoint, data)
        )


def _subtitle(compared: _Compared, checkpoint: Path, data: PathText) -> str:
    """What was compared with what, when, and by which version."""
    from datetime import datetime

    from detrkit import __version__

    variant = "" if compared.card is None else f"{compared.card.variant}, "
    return f"{variant}{checkpoint} on {data}, {datetime.now():%Y-%m-%d %H:%M}, detrkit {__version__}"


def _is_annotation_file(data: PathText) -> bool:
    """Whether a result file can be compared with these data without any pictures."""
    file = expanded(data)
    return file.suffix.lower() == ".json" and not file.is_dir()


def _model(checkpoint: Path, variant: str | None, device: str, *, own: bool) -> Detector:
    """The detector on its device; refuses a file of others where it must be one of detrkit."""
    from detrkit.checkpoints.own_format import own_file
    from detrkit.commands.checkpoints import load
    from detrkit.prediction.devices import choose_device

    chosen = choose_device(device)
    if own:
        own_file(checkpoint)
    return load(checkpoint, variant=variant).to(chosen)


def _is_panoptic(file: Path) -> bool:
    """Whether a result file holds panoptic segments: then it is an object, and detections are a list."""
    try:
        with expanded(file).open("rb") as opened:
            begin = opened.read(_LOOKED_AT).lstrip(_BLANKS)
    except OSError:  # whoever reads it says so
        return False
    if not begin.startswith(b"{"):
        return False
    from detrkit.evaluation.panoptic_results import is_panoptic_file

    return is_panoptic_file(file)


def _evaluate_segments(
    results: Path, data: str | Path, split: str | None, *, output: Path | None, report: Path | None
) -> None:
    """Panoptic quality of a result file, printed and written."""
    from detrkit.data import open_dataset
    from detrkit.evaluation.panoptic_results import evaluate_panoptic_file, is_panoptic_file
    from detrkit.files import write_json

    truth: DetectionDataset | Path = expanded(data)
    if not _is_annotation_file(data):
        truth = open_dataset(data, split or "val", masks="panoptic")
    elif not is_panoptic_file(data):
        raise ConfigurationError(
            f"{results} holds panoptic segments, and {data} does not: give panoptic annotations, or results with boxes"
        )
    evaluation = evaluate_panoptic_file(results, truth)
    try:
        if output is not None:
            write_json(output, evaluation.to_json())
        if report is not None:
            from detrkit.evaluation.report import panoptic_sections, write_report

            write_report(report, f"Evaluation of {results.name}", panoptic_sections(evaluation))
    finally:  # as for detections
        terminal().print(evaluation.table())


def _of_result_file(results: Path, data: DetectionDataset | Path, max_detections: int) -> _Compared:
    """Compares a result file with an annotation file, or with a data set by the ids or the names of its files."""
    from detrkit.evaluation import evaluate_in_detail
    from detrkit.evaluation.result_files import pair

    if isinstance(data, Path) and _is_panoptic(data):
        raise ConfigurationError(
            f"{data} holds panoptic segments, and {results} a list of detections: give panoptic results, such as panoptic.json of detrkit "
            "predict, or annotations with boxes"
        )
    pair_of = pair(results, data)
    evaluation, analysis = evaluate_in_detail(
        pair_of.ground_truth,
        pair_of.entries,
        name=pair_of.name,
        notes=pair_of.notes,
        max_detections=max_detections,
    )
    return _Compared(evaluation, analysis, pair_of.entries, [], None)


def _with_masks(
    model: Detector, data: str | Path, masks: Masks | None, opening: Callable[..., DetectionDataset]
) -> DetectionDataset:
    """The data set for a model: with masks if the model has some."""
    from detrkit.data.opening import has_only_masks, kind_of_masks
    from detrkit.errors import DataError
    from detrkit.models.catalog import has_masks

    if not has_masks(model.card.variant):
        if masks is not None:
            raise ConfigurationError(
                f"--masks needs a model with masks, and a {model.card.variant} has none: leave it out"
            )
        return opening()
    if masks is not None:
        return opening(masks=masks)
    try:
        return opening(masks=kind_of_masks(data))
    except DataError as problem:
        try:
            return opening()  # without masks, or wrong in a way that is said now
        except DataError:
            if has_only_masks(data):
                raise problem from None
            raise


def _of_model(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    max_detections: int,
    match_by: MatchBy,
    nms: float | None,
) -> _Compared:
    from detrkit.evaluation import compare_in_detail, detect, evaluate_panoptic
    from detrkit.evaluation.runner import with_best_thresholds

    entries = detect(
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        progress=True,
        max_detections=max_detections,
        match_by=match_by,
        nms=nms,
    )
    evaluation, analysis = compare_in_detail(model, dataset, entries, max_detections=max_detections, match_by=match_by)
    card = with_best_thresholds(model.card, dataset, evaluation, match_by, nms=nms)
    segments = None
    if dataset.is_panoptic:
        segments = evaluate_panoptic(
            model, dataset, batch_size=batch_size, workers=workers, progress=True, match_by=match_by
        )
    return _Compared(evaluation, analysis, entries, dataset.with_file_ids(entries), card, segments)


def _stored(checkpoint: Path, compared: _Compared) -> str:
    """Stores the best thresholds, and says so."""
    from detrkit.checkpoints.own_format import store_thresholds
    from detrkit.checkpoints.places import find_weights
    from detrkit.data.wording import counted

    checkpoint = find_weights(checkpoint)
    if compared.evaluation.best_threshold is None or compared.card is None:
        return f"Note: no detection is correct, so the thresholds in {checkpoint} stay as they were."
    card = compared.card
    store_thresholds(checkpoint, card.threshold, card.class_thresholds, card.nms)
    own = counted(len(card.class_thresholds), "class", "classes")
    nms = "no NMS value" if card.nms is None else f"NMS from IoU {card.nms:g}"
    return f"Stored in {checkpoint}: the threshold {card.threshold:.3f}, thresholds of their own for {own}, and {nms}."
