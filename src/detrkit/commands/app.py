"""The list of commands."""

from __future__ import annotations

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownCommandError

from detrkit import __version__

app = App(
    name="detrkit",
    help="Object detection with transformers: train, evaluate and run detectors of the DETR family.",
    help_epilogue="Every command: --help explains its options, --debug shows the traceback of an error.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` says where a run was stopped
)
app.command(
    "detrkit.commands.demo:demo", help="Train a small detector from scratch in minutes, and show what it learned."
)
app.command(
    "detrkit.commands.inspect:inspect",
    help="Look for everything in a data set that would stop or spoil training.\n\n"
    "Exit code 0: fine, warnings and notes at most. 1: training would refuse the data or be spoilt. 2: some of it cannot be read. "
    "What this installation and this computer can do: detrkit doctor.",
)
app.command("detrkit.commands.train:train", help="Train a detector on a data set, or resume a run.")
app.command(
    "detrkit.commands.report:report", help="Write a run's curves, report, charts and pictures again, without training."
)
app.command("detrkit.commands.evaluate:evaluate", help="COCO figures for a model or a result file.")
app.command("detrkit.commands.predict:predict", help="Find objects in images.")
app.command("detrkit.commands.convert:convert", help="Write a data set as COCO, YOLO or Pascal VOC.")
app.command("detrkit.commands.models:models", help="List everything that can be built.")
app.command(
    "detrkit.commands.doctor:doctor",
    help="Show versions, devices, precisions, and how deformable attention runs.\n\nWhat is wrong with a data set: detrkit inspect.",
)


def explain(problem: CycloptsError) -> str:
    """What is wrong with the command line, as one line of text."""
    if isinstance(problem, MissingArgumentError) and problem.argument is not None and not problem.argument.tokens:
        command = " ".join(("detrkit", *(problem.command_chain or ())))
        name = problem.argument.name
        if problem.argument.index is not None:  # it is given by its place
            name = name.lstrip("-").upper()
        return f"`{command}` needs {name}: `{command} --help` tells what to give"
    sentence = " ".join(str(problem).split())
    if isinstance(problem, UnknownCommandError) and "Available" not in sentence:
        names = [name for name in app if not name.startswith("-")]
        sentence += f" The commands are {', '.join(names)}."
    return sentence
