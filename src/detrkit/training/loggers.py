"""Loggers of other tools, which get a run's options and figures besides log.csv and TensorBoard: Weights & Biases, MLflow."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from detrkit.errors import ConfigurationError, OptionError, closest
from detrkit.files import write_json
from detrkit.training.run_folder import RunFolder
from detrkit.training.training_options import TrainingOptions

_PROJECT = "detrkit"  # unless an environment variable of the tool says otherwise
_MLFLOW_ADDRESS = "MLFLOW_TRACKING_URI"


def check_loggers(names: Sequence[str]) -> None:
    """Refuses loggers that do not exist or whose package is not installed.

    Args:
        names: as the option has them.

    Raises:
        ConfigurationError: there is such a logger.
    """
    unknown = [str(name) for name in names if name not in _STARTS]
    if unknown:
        raise OptionError(f"there is no logger '{unknown[0]}' for loggers: {closest(unknown[0], _STARTS)}", "loggers")
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise OptionError(
                f"loggers has {name}, whose package is not installed: pip install {name}, or leave it out", "loggers"
            )


def start_loggers(
    options: TrainingOptions, folder: RunFolder, without: Callable[[str], object] | None = None
) -> list[Logger]:
    """Starts the loggers of a run; a resumed run goes on where it was in each tool.

    Args:
        options: of the run, which the tools get as its configuration.
        folder: of the run, which keeps what the tools call it.
        without: gets a line about each tool that does not start, of a run that goes on without it; None for a run that does not.

    Raises:
        ConfigurationError: a tool does not start, for lack of a network or a login, and the run does not go on without it.
    """
    runs: dict[str, str] = json.loads(folder.loggers.read_text(encoding="utf-8")) if folder.loggers.is_file() else {}
    started: list[Logger] = []
    for name in dict.fromkeys(options.loggers):
        try:
            logger = _STARTS[name](folder.path, runs.get(name))
            if name not in runs:  # MLflow refuses to change what it has
                logger.log_hyperparams(dataclasses.asdict(options))
            runs[name] = str(logger.version)
        except Exception as problem:  # whatever these tools raise
            if without is not None:
                without(f"Note: {name} does not start ({_in_a_line(problem)}), so the run goes on without it.")
                continue
            end_loggers(started)
            raise ConfigurationError(
                f"{name} does not start ({_in_a_line(problem)}): mend that, or train without it (it is in loggers)"
            ) from problem
        started.append(_with_guarded_end(logger))
    if started:
        write_json(folder.loggers, runs)
    return started


class Curves(TensorBoardLogger):
    """TensorBoard's curves, which end no run: what a full disk swallows is in log.csv as well. Later figures go into a new file."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds figures."""
        with self._losing_figures():
            super().log_metrics(metrics, step)

    def save(self) -> None:
        """Writes hyperparameters, of which there are none."""
        with self._losing_figures():
            super().save()

    def finalize(self, status: str) -> None:
        """Ends the file."""
        with self._losing_figures():
            super().finalize(status)

    @contextmanager
    def _losing_figures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # Lightning makes the second of the first
            self._experiment = None


def log_figures(
    loggers: MutableSequence[Logger], figures: Mapping[str, float], step: int, say: Callable[[str], None]
) -> None:
    """Passes figures on to all loggers. A tool that fails is left out from then on: it does not end a run.

    Args:
        loggers: `Curves` first; a tool that fails is taken out.
        figures: by name.
        step: optimizer step.
        say: gets a line about a tool that failed.
    """
    own, *others = loggers
    own.log_metrics(dict(figures), step)
    for logger in others:
        try:
            logger.log_metrics(dict(figures), step)
        except Exception as problem:  # whatever these tools raise
            loggers.remove(logger)
            say(
                f"Note: {type(logger).__name__} failed ({_in_a_line(problem)}). The run goes on without it; log.csv has every figure."
            )


def log_epoch(loggers: MutableSequence[Logger], row: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Passes the figures of an epoch on, at its last step; see `log_figures`.

    Args:
        loggers: as for `log_figures`.
        row: of the run's log.
        say: as for `log_figures`.
    """
    log_figures(loggers, {f"epoch/{name}": value for name, value in row.items()}, int(row["step"]), say)


def end_loggers(loggers: Sequence[Logger]) -> None:
    """Ends what the tools call a run, so that the next run of this process is another one for them.

    Args:
        loggers: as `start_loggers` returned them.
    """
    for logger in loggers:
        with suppress(Exception):  # whatever these tools raise; the run has all of it in its folder
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if callable(finish):
                finish()


def _with_guarded_end(logger: Logger) -> Logger:
    """The logger; what Lightning calls at the end of a run, unguarded, cannot fail any more."""
    finalize = logger.finalize

    def guarded(status: str) -> None:
        with suppress(Exception):  # whatever these tools raise
            finalize(status)

    logger.finalize = guarded  # type: ignore[method-assign]
    return logger


def _start_wandb(folder: Path, run: str | None) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    logger = WandbLogger(name=folder.name, project=project, save_dir=str(folder), id=run)
    _ = logger.experiment  # connects
    return logger


def _start_mlflow(folder: Path, run: str | None) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    given = os.environ.get(_MLFLOW_ADDRESS) or None
    address, artifacts = given, None
    if address is None:  # a database: MLflow does not write plain folders any more
        own = folder.resolve() / "mlflow"
        if found := next((mark for mark in "?%" if mark in str(own)), None):  # MLflow reads them as parts of an address
            raise ConfigurationError(f"its database cannot lie in {own}, whose name has '{found}'")
        own.mkdir(exist_ok=True)
        address, artifacts = f"sqlite:///{(own / 'mlflow.db').as_posix()}", own.as_uri()
    logger = MLFlowLogger(
        experiment, run_name=folder.name, tracking_uri=address, run_id=run, artifact_location=artifacts
    )
    try:
        _ = logger.experiment  # connects
    finally:
        if given is None:  # where MLflow notes the address for its own processes; the next run has its own
            os.environ.pop(_MLFLOW_ADDRESS, None)
    return logger


def _in_a_line(problem: Exception) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__


_STARTS: dict[str, Callable[[Path, str | None], Logger]] = {"wandb": _start_wandb, "mlflow": _start_mlflow}
