"""`detrkit explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from detrkit.commands.values import OptionalPathText, PathText, VariantText
from detrkit.errors import ConfigurationError, DataError, DetrkitError

if TYPE_CHECKING:
    from detrkit.data import DetectionDataset
    from detrkit.explaining import Answers, Explanation
    from detrkit.prediction import Predictor

_OUTPUT = Path("explained")


def explain(
    checkpoint: Path,
    *images: PathText,
    detection: int | None = None,
    query: int | None = None,
    at: str | None = None,
    layers: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    heads: Annotated[tuple[int, ...] | None, Parameter(consume_multiple=True, negative=())] = None,
    why: str | None = None,
    match_by: Annotated[Literal["auto", "name", "id"] | None, Parameter(show_default=lambda _: "name")] = None,
    data: OptionalPathText = None,
    split: Annotated[str | None, Parameter(show_default=lambda _: "val")] = None,
    threshold: float | None = None,
    output: Path = _OUTPUT,
    variant: VariantText = None,
    device: str = "auto",
    orientation: Annotated[Literal["auto", "stored", "shown"] | None, Parameter(show_default=lambda _: "auto")] = None,
    stretch_16bit: bool = False,
) -> None:
    """Show where a model looked for what it found in images, why it missed an object, or what each of its queries is for.

    With images, each detection that is explained becomes a PNG file: where its query looked in each decoder layer and head, and what each layer
    said of it. With --data and --why, the objects of one image of a data set: which were found, and why not the others. With --data alone,
    where in the images of a data set each query finds objects, of which sizes and classes. All numbers begin with 0.

    Args:
        checkpoint: a checkpoint of detrkit, of the papers' authors or of Hugging Face.
        images: files, folders, patterns in quotes such as "photos/*.jpg", or text files with a path on each line (list.txt, @list).
        detection: the detection that is explained, in the order of scores, 0 for the best; by default the best three that are reported.
        query: explain this query, whether or not it found something.
        at: a place in pixels of the image, such as 120,80: show what the encoder's tokens there looked at.
        layers: layers that are shown, one or more; by default all.
        heads: attention heads that are shown, one or more; by default all.
        why: name of an image of the data set: say for each of its objects whether it was found, and if not, why.
        match_by: with --why, how the model's classes find those of the data: by "name", by "id", or "auto": by name, where a model is refused that
            knows less than half of the classes with objects.
        data: folder or annotation file of a data set, or "digits".
        split: split of the data set.
        threshold: score from which a detection of any class is reported; by default the model's own.
        output: folder for the results.
        variant: name of the checkpoint's variant, if the file does not say.
        device: auto, cpu, cuda, cuda:1 or mps.
        orientation: whether pictures of a data set with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO
            and Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value, as in training.
    """
    from detrkit.checkpoints.places import find_weights
    from detrkit.commands.checkpoints import load, loading
    from detrkit.data.places import find_data
    from detrkit.files import expanded, prepare_folder
    from detrkit.models.listing import check_name
    from detrkit.prediction.inputs import find_images, without_results

    of_picture = {"--detection": detection, "--query": query, "--at": at}
    of_data = {"--why": why, "--split": split, "--orientation": orientation, "--match-by": match_by}
    _check_options(images, of_picture, {"--layers": layers, "--heads": heads}, of_data, data)
    place = None if at is None else _place(at)
    if variant is not None:
        check_name(variant)
    find_weights(checkpoint)  # whatever can be wrong is said before PyTorch is loaded
    output = prepare_folder(expanded(output))
    paths: list[Path] = []
    if data is not None:
        find_data(data)
    else:
        found = find_images(images)
        paths, _ = without_results(found, output, searched=any("**" in str(each) for each in images))
    with loading(checkpoint):
        from detrkit.prediction import Predictor
        from detrkit.prediction.devices import choose_device

        predictor = Predictor(
            load(checkpoint, variant=variant),
            threshold=threshold,
            device=choose_device(device),
            stretch_16bit=stretch_16bit,
        )
    shown = {"layers": layers, "heads": heads}
    if data is None:
        _explain_images(predictor, paths, output, {"detection": detection, "query": query, "at": place, **shown})
        return
    from detrkit.data import open_dataset

    dataset = open_dataset(data, split or "val", orientation=orientation or "auto", stretch_16bit=stretch_16bit)
    if why is not None:
        _explain_misses(predictor, dataset, why, output, {**shown, "match_by": match_by or "name"})
    else:
        _explain_queries(predictor, dataset, output)


def _check_options(
    images: Sequence[PathText],
    of_picture: dict[str, Any],
    shown: dict[str, Any],
    of_data: dict[str, Any],
    data: PathText | None,
) -> None:
    """Refuses what does not go together, before anything is read."""
    of_picture, shown, of_data = (
        {name: value for name, value in each.items() if value is not None} for each in (of_picture, shown, of_data)
    )
    if data is None and of_data:
        raise ConfigurationError(f"{next(iter(of_data))} is about a data set: add --data with its path")
    if data is None and not images:
        raise ConfigurationError("there is nothing to explain: name images, or a data set with --data")
    if data is not None and images:
        raise ConfigurationError(
            "images and --data exclude each other: name images to see where the model looked, or a data set, with --why IMAGE for one of its images"
        )
    if data is not None and of_picture:
        raise ConfigurationError(
            f"{' and '.join(of_picture)} need an image that is named: leave --data out and name one"
        )
    if len(of_picture) > 1:
        raise ConfigurationError(f"{' and '.join(of_picture)} exclude each other: give one of them")
    if "--match-by" in of_data and "--why" not in of_data:
        raise ConfigurationError(
            "--match-by is about the objects of an image: add --why with its name, or leave it out"
        )
    if data is not None and "--why" not in of_data and shown:
        raise ConfigurationError(
            f"{' and '.join(shown)} choose from what a model does with an image: name one, or one of the data set with --why"
        )


def _place(text: str) -> tuple[float, float]:
    """The numbers in a text such as "120,80"."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ConfigurationError(f"--at must be x and y in pixels, such as 120,80, not '{text}'") from None
    return x, y


def _explain_images(predictor: Predictor, paths: Sequence[Path], output: Path, asked: dict[str, Any]) -> None:
    """Explains each image, and prints what is in the files."""
    from detrkit.explaining import explain as explained
    from detrkit.explaining.writing import write_all, write_explanation
    from detrkit.prediction.results import output_names
    from detrkit.terminal import terminal

    console, pictures, explanations = terminal(), [], []
    problems: list[DetrkitError] = []
    for path, name in zip(paths, output_names(paths), strict=True):
        try:
            explanation = explained(predictor, path, **asked)
        except DetrkitError as problem:
            if len(paths) == 1:
                raise
            console.print(f"{path} is left out: {problem}")
            problems.append(problem)
            continue
        numbers, drawn = write_explanation(explanation, output, Path(name).stem)
        explanations.append((path.name, explanation))
        pictures.append({"file": path.as_posix(), **numbers})
        for query, figure in zip(explanation.queries, drawn, strict=False):
            label = explanation.categories[query.label].name
            console.print(f"{path}: {label} {query.score:.2f} by query {query.query}: {figure}")
        if explanation.place is not None:
            console.print(
                f"{path}: what the encoder's tokens at {asked['at'][0]:g},{asked['at'][1]:g} looked at: {drawn[-1]}"
            )
    console.print(f"Numbers: {write_all(output, pictures)}")
    if explanations:
        console.print(_page(output, explanations))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(paths)} images were left out, the first since: {str(problems[0]).rstrip('.')}."
        )


def _explain_misses(
    predictor: Predictor,
    dataset: DetectionDataset,
    why: str,
    output: Path,
    asked: dict[str, Any],
) -> None:
    """Says of each object of an image whether it was found, and why not."""
    from detrkit.data.wording import counted
    from detrkit.explaining import why_missed
    from detrkit.explaining.missed_drawing import write_answers
    from detrkit.explaining.writing import write_all
    from detrkit.terminal import terminal

    console = terminal()
    answers = why_missed(predictor, dataset, why, **asked)
    numbers, drawn = write_answers(answers, output, Path(answers.image).stem)
    for number, each in enumerate(answers.objects):
        console.print(f"{number}  {each.sentence}")
    console.print(f"All objects: {drawn[0]}")
    if len(drawn) > 1:
        console.print(f"{counted(len(drawn) - 1, 'missed object')}, each in a picture of its own: {drawn[1]} …")
    console.print(f"Numbers: {write_all(output, [numbers])}")
    console.print(_page(output, [(answers.image, answers)]))


def _page(output: Path, pictures: Sequence[tuple[str, Explanation | Answers]]) -> str:
    """Writes the page; the line that says where it is, or why there is none, though all else is written."""
    from detrkit.explaining.page import PAGE, write_page

    try:
        page, shown = write_page(output / PAGE, pictures)
    except ConfigurationError as problem:
        return f"There is no page to look through: {problem}"
    rest = "" if shown == len(pictures) else f" ({shown} of {len(pictures)} pictures; more would be too large)"
    return f"To look through: {page}{rest}"


def _explain_queries(predictor: Predictor, dataset: DetectionDataset, output: Path) -> None:
    """Says where each query finds objects, of which sizes and classes."""
    from detrkit.explaining import query_uses
    from detrkit.explaining.slots_drawing import write_uses
    from detrkit.terminal import terminal

    uses = query_uses(predictor, dataset, progress=True)
    drawn, numbers = write_uses(uses, output)
    console = terminal()
    console.print(f"{uses.sentence()}.")
    console.print(f"Drawn: {drawn}")
    console.print(f"Numbers: {numbers}")
