"""`detrkit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


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
    orientation: Literal["auto", "stored", "shown"] = "auto",
    stretch_16bit: bool = False,
) -> None:
    """COCO figures for a model on a data set, or for a result file against ground truth.

    Args:
        checkpoint: a checkpoint, or a JSON file with results in COCO's format.
        data: folder or annotation file of a data set, or "digits"; for a result file, the JSON file with the ground truth.
        split: split to evaluate on.
        variant: name of the checkpoint's variant, if the file does not say.
        batch_size: images that go through the model together; the figures do not depend on it.
        workers: processes that load images.
        device: auto, cpu, cuda, cuda:1 or mps.
        output: JSON file for the figures.
        results: JSON file for all detections, in COCO's format.
        report: HTML file for figures and pictures.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value.
    """
    from detrkit.errors import ConfigurationError
    from detrkit.evaluation import compare, detect, evaluate_detections
    from detrkit.evaluation.report import evaluation_sections, write_report
    from detrkit.files import prepare_folder, write_json
    from detrkit.terminal import terminal

    for file in (output, results, report):
        if file is not None:
            prepare_folder(file.parent)
    dataset, entries = None, []
    file_entries: list[dict[str, Any]] = []
    if checkpoint.suffix.lower() == ".json" and results is not None:
        raise ConfigurationError("--results needs a checkpoint: a result file is not written again")
    if checkpoint.suffix.lower() == ".json":
        evaluation = evaluate_detections(Path(data), checkpoint)
    else:
        from detrkit.checkpoints import load
        from detrkit.data import open_dataset
        from detrkit.training.options import choose_device

        model = load(checkpoint, variant=variant).to(choose_device(device))
        dataset = open_dataset(data, split, orientation=orientation, stretch_16bit=stretch_16bit)
        entries = detect(model, dataset, batch_size=batch_size, workers=workers, progress=True)
        evaluation = compare(model, dataset, entries)
        file_entries = dataset.with_file_ids(entries)
    terminal().print(evaluation.table())
    if results is not None:
        write_json(results, file_entries)
    if output is not None:
        write_json(output, evaluation.to_json())
    if report is not None:
        write_report(
            report, f"Evaluation of {checkpoint.name}", evaluation_sections(evaluation, None, dataset, entries)
        )
