"""`detrkit evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from detrkit.data import DetectionDataset


def evaluate(
    checkpoint: Path,
    *,
    data: str,
    split: str = "val",
    variant: str | None = None,
    batch_size: int = 1,
    workers: int = 0,
    device: str = "auto",
    output: Path | None = None,
    results: Path | None = None,
    report: Path | None = None,
    charts: Path | None = None,
    orientation: Literal["auto", "stored", "shown"] = "auto",
    stretch_16bit: bool = False,
) -> None:
    """COCO figures for a model on a data set, or for a result file against ground truth.

    Args:
        checkpoint: a checkpoint, or a JSON file with results in COCO's format.
        data: folder or annotation file of a data set, or "digits"; a result file can also be compared with an annotation file whose
            pictures are elsewhere.
        split: split to evaluate on.
        variant: name of the checkpoint's variant, if the file does not say.
        batch_size: images that go through the model together; the figures do not depend on it.
        workers: processes that load images.
        device: auto, cpu, cuda, cuda:1 or mps.
        output: JSON file for the figures and the analysis of errors.
        results: JSON file for all detections, in COCO's format.
        report: HTML file for figures, charts, errors and pictures; it needs no other file.
        charts: folder for the report's charts as PNG files.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value.
    """
    from detrkit.errors import ConfigurationError
    from detrkit.evaluation import analyze, compare, detect, evaluate_detections
    from detrkit.evaluation.report import evaluation_sections, write_charts, write_report
    from detrkit.files import prepare_folder, write_json
    from detrkit.terminal import terminal

    for folder in (*(file.parent for file in (output, results, report) if file is not None), charts):
        if folder is not None:
            prepare_folder(folder)
    entries: Path | list[dict[str, Any]] = checkpoint
    if checkpoint.suffix.lower() == ".json" and results is not None:
        raise ConfigurationError("--results needs a checkpoint: a result file is not written again")
    if checkpoint.suffix.lower() == ".json":
        dataset = _pictures(data, split, orientation=orientation, stretch_16bit=stretch_16bit)
        truth = Path(data) if dataset is None else dataset.to_coco(own_ids=True)
        name, notes = (None, ()) if dataset is None else (dataset.name, dataset.notes)
        evaluation = evaluate_detections(truth, checkpoint, name=name, notes=notes)
    else:
        from detrkit.checkpoints import load
        from detrkit.data import open_dataset
        from detrkit.training.options import choose_device

        model = load(checkpoint, variant=variant).to(choose_device(device))
        dataset = open_dataset(data, split, orientation=orientation, stretch_16bit=stretch_16bit)
        entries = detect(model, dataset, batch_size=batch_size, workers=workers, progress=True)
        evaluation, truth = compare(model, dataset, entries), dataset.to_coco()
        if results is not None:
            write_json(results, dataset.with_file_ids(entries))
    terminal().print(evaluation.table())
    if output is None and report is None and charts is None:
        return
    analysis = analyze(truth, entries, name=evaluation.name)
    if output is not None:
        write_json(output, {**evaluation.to_json(), "analysis": analysis.to_json()})
    found = entries if isinstance(entries, list) else json.loads(entries.read_bytes())
    sections = evaluation_sections(evaluation, analysis, dataset, found, pictures=0 if report is None else 8)
    if charts is not None:
        write_charts(charts, sections)
    if report is not None:
        write_report(report, f"Evaluation of {checkpoint.name}", sections)


def _pictures(data: str, split: str, **options: Any) -> DetectionDataset | None:
    """The split that a result file is compared with; None for an annotation file, which needs no pictures."""
    file = Path(data).expanduser()
    if file.suffix.lower() == ".json" and not file.is_dir():
        return None
    from detrkit.data import open_dataset

    return open_dataset(data, split, **options)
