"""The list of commands."""

from __future__ import annotations

from cyclopts import App, Parameter

from detrkit import __version__
from detrkit.commands.values import converted

app = App(
    name="detrkit",
    help="Object detection with transformers: train, evaluate and run detectors of the DETR family.",
    help_epilogue="Every command: --help explains its options, --debug shows the traceback of an error.",
    version=__version__,
    default_parameter=Parameter(converter=converted),
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
app.command(
    "detrkit.commands.compare:compare",
    help="Train variants and evaluate checkpoints on a data set, all alike, and say which are better.\n\n"
    "Exit code 0: every run is finished. 1: some failed, as the table says. 2: the comparison cannot begin.",
    usage="Usage: detrkit compare --data PATH [OPTIONS] CONTESTANTS...",
)
app.command(
    "detrkit.commands.study:study",
    help="Remake an experiment of the papers: train what it compares, and show what comes out. Without NAME: list the studies.",
    usage="Usage: detrkit study [NAME] [OPTIONS]",
)
app.command("detrkit.commands.evaluate:evaluate", help="COCO figures for a model or a result file.")
app.command(
    "detrkit.commands.predict:predict",
    help="Find objects in images.",
    usage="Usage: detrkit predict [OPTIONS] CHECKPOINT IMAGES...",
)
app.command(
    "detrkit.commands.explain:explain",
    help="Show where a model looked for what it found, why it missed an object, or what each of its queries is for.",
    usage="Usage: detrkit explain [OPTIONS] CHECKPOINT [IMAGES...]",
)
app.command(
    "detrkit.commands.convert:convert",
    help="Write a data set as COCO, YOLO or Pascal VOC.\n\nThe weights of a model: detrkit convert-weights.",
)
app.command(
    "detrkit.commands.convert_weights:convert_weights",
    help="Write a model's weights as its authors, Hugging Face's transformers or detrkit read them.\n\n"
    "Weights stay what they are, bit by bit; classes, thresholds and preprocessing travel along. A data set: detrkit convert.",
)
app.command(
    "detrkit.commands.models:models",
    help="List everything that can be built, or show the settings and the recipe of one variant.",
)
app.command(
    "detrkit.commands.config:config",
    help="Print every training option and setting of a variant with its value and meaning, as YAML for `detrkit train --config`.",
)
app.command(
    "detrkit.commands.doctor:doctor",
    help="Show versions, devices, precisions, and how deformable attention runs.\n\nWhat is wrong with a data set: detrkit inspect.",
)
app.command("detrkit.commands.manual:manual", name="help", help="Show the help of detrkit, or of one command.")
app.register_install_completion_command(
    help="Let the shell complete commands and options (bash, zsh, fish, PowerShell): adds a script and a line in its startup file."
)
