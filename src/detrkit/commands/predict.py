"""`detrkit predict`."""

from __future__ import annotations

from pathlib import Path


def predict(
    checkpoint: Path,
    *images: str,
    threshold: float | None = None,
    output: Path = Path("predictions"),
    variant: str | None = None,
    device: str = "auto",
    stretch_16bit: bool = False,
) -> None:
    """Find objects in images: writes each image with its boxes, and all detections as JSON in COCO's format.

    Args:
        checkpoint: a checkpoint of detrkit, of the papers' authors or of Hugging Face.
        images: files, folders, or patterns in quotes such as "photos/*.jpg".
        threshold: score from which a detection counts; by default the model's own.
        output: folder for the images and detections.json.
        variant: name of the checkpoint's variant, if the file does not say.
        device: auto, cpu, cuda, cuda:1 or mps.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value, as in training.
    """
    from rich.progress import track

    from detrkit.commands.checkpoints import load
    from detrkit.data import check_image, read_image
    from detrkit.errors import OutputError
    from detrkit.files import expanded, prepare_folder, write_json
    from detrkit.prediction import Predictor, draw, find_images, output_names, save_image, to_file_entries
    from detrkit.terminal import terminal
    from detrkit.training.options import choose_device

    console = terminal()
    paths = find_images(images)
    output = prepare_folder(expanded(output))
    if any(path.parent.resolve() == output.resolve() for path in paths):
        raise OutputError(f"{output} contains the input images, which would be overwritten: choose another --output")
    for path in paths:
        check_image(path)  # one bad file must not cost the results of the others
    predictor = Predictor(load(checkpoint, variant=variant), threshold=threshold, device=choose_device(device))
    all_detections = []
    errors = terminal(stderr=True)
    pairs = list(zip(paths, output_names(paths), strict=True))
    for path, name in track(pairs, "detecting", console=errors, transient=True, disable=not errors.is_terminal):
        picture = read_image(path, stretch_16bit=stretch_16bit)
        detections = predictor(picture)
        all_detections.append(detections)
        save_image(output / name, draw(picture, detections))
    write_json(output / "detections.json", to_file_entries(paths, all_detections))
    total = sum(len(detections) for detections in all_detections)
    console.print(
        f"{total} detections from score {predictor.threshold:.2f} in {len(paths)} images: see {output}, and {output / 'detections.json'}",
    )
