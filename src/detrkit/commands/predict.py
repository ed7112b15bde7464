"""`detrkit predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import Parameter

from detrkit.commands.values import PathText, VariantText

if TYPE_CHECKING:
    from detrkit.prediction import Outcome, Predictor, SlicedPredictor
    from detrkit.prediction.result_files import ResultFormat

Format = Literal["json", "panoptic", "csv", "yolo", "images"]
Merging = Literal["nms", "nmm"]

_OUTPUT = Path("predictions")
_FORMATS: tuple[Format, ...] = ("json", "images")
_OVERLAP = 0.2
_MERGE: Merging = "nms"
_SMALL_WORK = (
    1_000_000  # pixels in all for which it does not pay to load compiled kernels, which takes a second and 100 MB
)


def predict(
    checkpoint: Path,
    *images: PathText,
    recursive: bool = False,
    threshold: float | None = None,
    classes: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    nms: float | None = None,
    output: Annotated[Path | None, Parameter(show_default=lambda _: _OUTPUT)] = None,
    formats: Annotated[
        tuple[Format, ...] | None,
        Parameter(name="--format", consume_multiple=True, negative=(), show_default=lambda _: " ".join(_FORMATS)),
    ] = None,
    crops: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[Literal["-"] | None, Parameter(allow_leading_hyphen=True)] = None,
    slice_size: Annotated[int | None, Parameter(name="--slice")] = None,
    overlap: float = _OVERLAP,
    merge: Merging = _MERGE,
    batch_size: int = 1,
    variant: VariantText = None,
    device: str = "auto",
    stretch_16bit: bool = False,
) -> None:
    """Find objects in images: writes each image with its boxes, masks or segments, and all results as JSON, PNG, CSV or YOLO labels.

    Results are written image by image, and a run that is stopped keeps them. Images that cannot be read are skipped and named at the end, with
    exit code 2. Results of an earlier run are replaced, with a note; files that detrkit did not write are not, and the command ends before it
    begins.

    Args:
        checkpoint: a checkpoint of detrkit, of the papers' authors or of Hugging Face.
        images: files, folders, patterns in quotes such as "photos/*.jpg", or text files with a path on each line (list.txt, @list).
        recursive: whether folders give the images in the folders inside them as well.
        threshold: score from which a detection of any class counts; by default the model's own, for each class where it has them.
        classes: names of the classes to report, one or more; all by default.
        nms: leave out detections that overlap a better one of their class by more than this IoU; 1 leaves none out. By default as stored in
            the checkpoint, which has a value if an evaluation showed that the model reports objects twice.
        output: folder for the results.
        formats: what to write, one or more: json (detections.json in COCO's form, and images.json with all images), panoptic (panoptic.json and
            panoptic/ in COCO's form, for models with segments, where it is written by default), csv (detections.csv), yolo (labels/ and
            classes.txt), images (copies with boxes, masks or segments).
        crops: also write each object as a picture, to crops/CLASS/ in the folder for the results.
        json: "-" prints the detections as JSON to standard output and everything else to the error stream; no folder is written unless
            --output, --format or --crops is given.
        slice_size: cut larger images into overlapping squares of this many pixels and look at each, for small objects in large images.
        overlap: of neighbouring slices, as a share of their size (below 1) or in pixels.
        merge: what becomes of several detections of one object in slices: nms keeps the best, nmm also extends its box to all of them.
        batch_size: images of equal size, or slices, that go through the model together; results do not depend on it.
        variant: name of the checkpoint's variant, if the file does not say.
        device: auto, cpu, cuda, cuda:1 or mps.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value, as in training.
    """
    from detrkit.checkpoints.places import find_weights
    from detrkit.commands.checkpoints import loading
    from detrkit.errors import ConfigurationError
    from detrkit.files import expanded, prepare_folder
    from detrkit.models.listing import check_name
    from detrkit.prediction.inputs import find_images, without_results
    from detrkit.prediction.suppression import check_nms

    if variant is not None:
        check_name(variant)
    if slice_size is None and (overlap, merge) != (_OVERLAP, _MERGE):
        raise ConfigurationError("--overlap and --merge are about slices: add --slice with their size in pixels")
    check_nms(nms)
    find_weights(checkpoint)  # whatever can be wrong is said before PyTorch is loaded
    written = _written(formats, crops=crops, anyway=json is None or output is not None)
    output = expanded(output or _OUTPUT)
    if written:
        prepare_folder(output)
    searched = recursive or any("**" in str(image) for image in images)
    found = find_images(images, recursive=recursive)
    paths, notes = without_results(found, output, searched=searched, drawn="images" in written)
    with _all_but_json_to_errors(json) as stream:
        with loading(checkpoint):
            from detrkit.commands.checkpoints import load
            from detrkit.prediction import Predictor, SlicedPredictor
            from detrkit.prediction.devices import choose_device

            plain = Predictor(
                load(checkpoint, variant=variant),
                threshold=threshold,
                nms=nms,
                classes=classes,
                device=choose_device(device),
                batch_size=batch_size,
                stretch_16bit=stretch_16bit,
            )
        if formats is None and written and plain.has_segments and slice_size is None:
            written = (*written, "panoptic")
        if "panoptic" in written:
            _check_segments(plain, slice_size)
        sliced = None if slice_size is None else SlicedPredictor(plain, slice_size, overlap=overlap, merge=merge)
        _check_and_say(plain, paths, output, written, notes)
        outcome = _run(sliced or plain, paths, output, written, stream)
        _report(outcome, plain, output, written, threshold_given=threshold is not None)


def _check_segments(predictor: Predictor, slice_size: int | None) -> None:
    """Refuses panoptic results where there are none."""
    from detrkit.errors import ConfigurationError

    if not predictor.has_segments:
        raise ConfigurationError(
            f"--format panoptic needs a model that finds things and stuff with masks, and {predictor.model.card.variant} does not: leave "
            "panoptic out, or use a panoptic model"
        )
    if slice_size is not None:
        raise ConfigurationError("--slice gives boxes alone, without segments: leave panoptic out of --format")


def _written(formats: Sequence[Format] | None, *, crops: bool, anyway: bool) -> tuple[ResultFormat, ...]:
    """What is written to the folder for results; without formats the usual ones, but only where a folder is written anyway."""
    chosen: Sequence[ResultFormat] = formats if formats is not None else _FORMATS if anyway else ()
    return (*chosen, "crops") if crops else tuple(chosen)


@contextmanager
def _all_but_json_to_errors(json: str | None) -> Iterator[TextIO | None]:
    """Where JSON is printed, the stream for it; whatever else is printed inside the block then goes to the error stream."""
    stream = sys.stdout
    with nullcontext() if json is None else redirect_stdout(sys.stderr):
        yield None if json is None else stream


def _check_and_say(
    predictor: Predictor, paths: Sequence[Path], output: Path, formats: Sequence[ResultFormat], notes: Sequence[str]
) -> None:
    """Refuses to replace what detrkit did not write, and says before the work what is left out or replaced."""
    from detrkit.prediction.replacing import check_replaceable
    from detrkit.prediction.result_files import replaced_results
    from detrkit.terminal import terminal

    check_replaceable(output, formats, paths, predictor.model.card.categories)
    for note in (*notes, *replaced_results(output, formats, paths)):
        terminal().print(f"Note: {note}")


def _run(
    predictor: Predictor | SlicedPredictor,
    paths: Sequence[Path],
    output: Path,
    formats: Sequence[ResultFormat],
    stream: TextIO | None,
) -> Outcome:
    """Looks at all images, and shows on the error stream how far it is."""
    import warnings
    from functools import partial

    from PIL import Image

    from detrkit.layers.sampling.operator import without_compiled_kernels
    from detrkit.prediction import predict_files
    from detrkit.prediction.result_files import JsonStream
    from detrkit.progress import watched

    quick = without_compiled_kernels() if _is_small_work(predictor, len(paths)) else nullcontext()
    with warnings.catch_warnings(), quick, watched(progress=True) as follow:
        progress = partial(follow, what="detecting", unit="image", total=len(paths))
        # From half the size on that Pillow refuses, it warns of attacks.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        more = [] if stream is None else [JsonStream(stream, paths)]
        return predict_files(predictor, paths, output, formats=formats, progress=progress, more=more)


def _is_small_work(predictor: Predictor | SlicedPredictor, images: int) -> bool:
    """Whether plain PyTorch is done with these images before kernels would be loaded; slices are many."""
    from detrkit.prediction import Predictor

    if not isinstance(predictor, Predictor):
        return False
    size = predictor.model.card.preprocessing
    return images * size.short_side * size.long_side <= _SMALL_WORK


def _report(
    outcome: Outcome,
    predictor: Predictor,
    output: Path,
    formats: Sequence[ResultFormat],
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
    if note and outcome.done:
        console.print(f"Note: {note}")
    if outcome.done:
        console.print(outcome.summary(thresholds_shown(predictor), result_places(output, formats)))
    if outcome.stopped:
        raise KeyboardInterrupt(f"stopped after {some_of(outcome.looked_at, outcome.total, 'image')}")
    if outcome.problems:
        raise DataError(outcome.unreadable())
