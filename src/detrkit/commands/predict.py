"""`detrkit predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from detrkit.prediction import Outcome, Predictor, SlicedPredictor

Format = Literal["json", "csv", "yolo", "images"]
Merging = Literal["nms", "nmm"]

_OVERLAP = 0.2
_MERGE: Merging = "nms"


def predict(
    checkpoint: Path,
    *images: str,
    recursive: bool = False,
    threshold: float | None = None,
    output: Path = Path("predictions"),
    formats: Annotated[tuple[Format, ...], Parameter(name="--format", consume_multiple=True, negative=())] = (
        "json",
        "images",
    ),
    slice_size: Annotated[int | None, Parameter(name="--slice")] = None,
    overlap: float = _OVERLAP,
    merge: Merging = _MERGE,
    batch_size: int = 1,
    variant: str | None = None,
    device: str = "auto",
    stretch_16bit: bool = False,
) -> None:
    """Find objects in images: writes each image with its boxes, and all detections as JSON, CSV or YOLO labels.

    Results are written image by image, and a run that is stopped keeps them. Images that cannot be read are skipped and named at the end, with
    exit code 2. Results of an earlier run are replaced; files that detrkit did not write are not, and the command ends before it begins.

    Args:
        checkpoint: a checkpoint of detrkit, of the papers' authors or of Hugging Face.
        images: files, folders, patterns in quotes such as "photos/*.jpg", or text files with a path on each line (list.txt, @list).
        recursive: whether folders give the images in the folders inside them as well.
        threshold: score from which a detection of any class counts; by default the model's own, for each class where it has them.
        output: folder for the results.
        formats: what to write, one or more: json (detections.json in COCO's form), csv (detections.csv), yolo (labels/ and classes.txt), images
            (copies with boxes).
        slice_size: cut larger images into overlapping squares of this many pixels and look at each, for small objects in large images.
        overlap: of neighbouring slices, as a share of their size (below 1) or in pixels.
        merge: what becomes of several detections of one object in slices: nms keeps the best, nmm also extends its box to all of them.
        batch_size: images of equal size, or slices, that go through the model together; results do not depend on it.
        variant: name of the checkpoint's variant, if the file does not say.
        device: auto, cpu, cuda, cuda:1 or mps.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value, as in training.
    """
    from detrkit.commands.checkpoints import load
    from detrkit.errors import ConfigurationError
    from detrkit.files import expanded, prepare_folder
    from detrkit.prediction import Predictor, SlicedPredictor, find_images
    from detrkit.prediction.inputs import without_results
    from detrkit.prediction.replacing import check_replaceable
    from detrkit.prediction.result_files import replaced_results
    from detrkit.training.options import choose_device

    if slice_size is None and (overlap, merge) != (_OVERLAP, _MERGE):
        raise ConfigurationError("--overlap and --merge are about slices: add --slice with their size in pixels.")
    output = prepare_folder(expanded(output))
    searched = recursive or any("**" in image for image in images)
    found = find_images(images, recursive=recursive)
    paths, notes = without_results(found, output, searched=searched, drawn="images" in formats)
    plain = Predictor(
        load(checkpoint, variant=variant),
        threshold=threshold,
        device=choose_device(device),
        batch_size=batch_size,
        stretch_16bit=stretch_16bit,
    )
    sliced = None if slice_size is None else SlicedPredictor(plain, slice_size, overlap=overlap, merge=merge)
    check_replaceable(output, formats, paths, plain.model.card.categories)
    notes += replaced_results(output, formats)
    outcome = _run(sliced or plain, paths, output, formats)
    _report(outcome, plain, output, formats, notes, threshold_given=threshold is not None)


def _run(
    predictor: Predictor | SlicedPredictor, paths: Sequence[Path], output: Path, formats: Sequence[Format]
) -> Outcome:
    """Looks at all images, and shows on the error stream how far it is."""
    import warnings
    from functools import partial

    from PIL import Image

    from detrkit.prediction import predict_files
    from detrkit.progress import watched

    with warnings.catch_warnings(), watched(progress=True) as follow:
        progress = partial(follow, what="detecting", unit="image", total=len(paths))
        # From half the size on that Pillow refuses, it warns of attacks.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return predict_files(predictor, paths, output, formats=formats, progress=progress)


def _report(
    outcome: Outcome,
    predictor: Predictor,
    output: Path,
    formats: Sequence[Format],
    notes: Sequence[str],
    *,
    threshold_given: bool,
) -> None:
    """Prints what was found and where it is; raises an error after a run that was stopped or skipped images."""
    from detrkit.data.wording import some_of
    from detrkit.errors import DataError
    from detrkit.prediction.files_run import threshold_note, thresholds_shown
    from detrkit.prediction.result_files import result_places
    from detrkit.terminal import terminal

    console = terminal()
    note = "" if threshold_given else threshold_note(predictor.model.card)
    for problem in outcome.problems if outcome.total > 1 else ():
        console.print(f"Skipped: {problem}")
    for sentence in (*notes, note) if outcome.done else ():
        if sentence:
            console.print(f"Note: {sentence}")
    if outcome.done:
        console.print(outcome.summary(thresholds_shown(predictor), result_places(output, formats)))
    if outcome.stopped:
        raise KeyboardInterrupt(f"stopped after {some_of(outcome.looked_at, outcome.total, 'image')}")
    if outcome.problems:
        raise DataError(outcome.unreadable())
