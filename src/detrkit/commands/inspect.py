"""`detrkit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from detrkit.cards import PolicyName
from detrkit.commands.values import PathText, VariantText


def inspect(
    path: PathText,
    *,
    split: Annotated[list[str] | None, Parameter(negative=())] = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    variant: VariantText = None,
    queries: int | None = None,
    json: Path | None = None,
    picture: Path | None = None,
    orientation: Literal["auto", "stored", "shown"] = "auto",
    stretch_16bit: bool = False,
    masks: Literal["instances", "panoptic"] | None = None,
    augmentation: PolicyName | None = None,
    augmented: int | None = None,
    output: Path = Path("augmented"),
) -> None:
    """Look for everything in a data set that would stop or spoil training: broken files, boxes that cannot be right, copies, classes.

    Exit code 0: fine, warnings and notes at most. 1: training would refuse the data or be spoilt. 2: some of it cannot be read. What this
    installation and this computer can do: detrkit doctor.

    Args:
        path: folder or annotation file of a data set, or "digits".
        split: the split to inspect, more than once for several; by default all.
        quick: look at headers and annotations only; pictures are not decoded, and ground truth is not sent through the evaluation.
        variant: a model whose queries and image sizes are used.
        queries: number of queries to compare the objects of an image with; by default the variant's, or 100.
        json: file for all figures and findings, with the names of all files concerned.
        picture: PNG or JPEG file for pictures with their boxes, before and after augmentation.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value.
        masks: look at masks, too, and without --quick decode them all: "instances" (objects) or "panoptic" (objects and stuff).
        augmentation: draw pictures step by step as training with this policy varies them.
        augmented: number of these pictures; by default 4. Without --augmentation the policy is that of the variant's recipe.
        output: folder for them, and for a page that shows them.
    """
    import sys

    from detrkit.data.places import find_data
    from detrkit.files import created_folders_note, prepare_files, write_json
    from detrkit.terminal import terminal

    missing = prepare_files({"--json": json, "--picture": picture}, kept=(Path(path),))
    find_data(path)  # what can be wrong is said before anything big is loaded
    from detrkit.evaluation import inspect_data
    from detrkit.evaluation.inspecting import PAGE

    inspection = inspect_data(
        path,
        split or (),
        quick=quick,
        variant=variant,
        queries=queries,
        picture=picture,
        orientation=orientation,
        stretch_16bit=stretch_16bit,
        masks=masks,
        augmentation=augmentation,
        augmented=augmented,
        output=output,
        progress=True,
    )
    if json is not None:
        write_json(json, inspection.to_json())
    console = terminal()  # after the files, since nobody may be there to read it
    console.print(inspection.table())
    left_out = any(each.kind == "sheet-left-out" for each in inspection.findings)
    for file in (json, None if left_out else picture):
        if file is not None:
            console.print(f"Written to {file}")
    for drawing in inspection.pictures:
        console.print(f"Drawn: {drawing}")
    if inspection.pictures:
        console.print(f"All of them on one page: {output / PAGE}")
    if note := created_folders_note(missing):
        console.print(note)
    sys.exit(inspection.exit_code)
