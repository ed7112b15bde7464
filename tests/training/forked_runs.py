"""Training in processes that are forked from one that has imported everything: started as torchrun would do it, and killed at chosen moments.

As a script it takes a JSON file with legs, which follow each other, and prints what became of their processes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

KILLS = ("step", "evaluation", "checkpoint", "file", "after a file")


def run_legs(legs: list[dict[str, Any]], folder: Path) -> list[list[tuple[int, str]]]:
    """What became of the processes of each leg: exit code (negative for a signal) and what they printed.

    Args:
        legs: each with the arguments of `detrkit.train`, and if wanted "processes", "kill" (see `arrange`), "with" (what else is arranged) and
            "sgd"; or "kills" one after the other.
        folder: for files of the legs.
    """
    plan = folder / "legs.json"
    plan.write_text(json.dumps(legs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DETRKIT_DEFORMABLE_ATTENTION": "reference"}
    result = subprocess.run(
        [sys.executable, __file__, str(plan)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return [[(code, text) for code, text in leg] for leg in json.loads(result.stdout.splitlines()[-1])]


def forked(leg: dict[str, Any], rank: int, port: int, output: Path) -> int:
    """Starts one process of a leg; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        code = trained(leg, rank, port, output)
    except BaseException:
        output.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def trained(leg: dict[str, Any], rank: int, port: int, output: Path) -> int:
    """Trains; returns the exit code."""
    from rich.console import Console

    import detrkit
    from detrkit.errors import DetrkitError

    count = leg.get("processes", 1)
    if count > 1:
        numbers = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({name: str(number) for name, number in numbers.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    if leg.get("sgd"):
        use_plain_descent()
    arrange(leg.get("kill"), rank)
    for name in leg.get("with", ()):
        {"a broken model": break_model, "no network": take_network, "known speed": know_speed}[name](rank, output)
    with output.open("w") as file:
        try:
            detrkit.train(**leg["train"], console=Console(file=file, width=2000))
        except DetrkitError as problem:
            file.write(str(problem))
            return 2
        except KeyboardInterrupt:
            return 130
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def use_plain_descent() -> None:
    """AdamW turns rounding of gradients that are nearly 0 into steps as large as any, and plain descent does not."""
    import torch

    import detrkit.training.module as module

    def build(model: Any, *, lr: float, **_: Any) -> Any:
        return torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=lr)

    module.build_optimizer = build  # type: ignore[assignment]


def break_model(rank: int, _: Path) -> None:
    """Lets the second step of the second process have a weight that is not a number."""
    import torch

    from detrkit.training.module import TrainingModule

    step = TrainingModule.training_step

    def poisoned(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 1 and rank == 1:
            with torch.no_grad():
                self.model.heads.box_head.layers[-1].bias.fill_(float("nan"))
        return step(self, batch, index)

    TrainingModule.training_step = poisoned  # type: ignore[method-assign]


def take_network(rank: int, output: Path) -> None:
    """Lets downloads fail, and notes who tried."""
    import detrkit.training.starting as starting
    from detrkit.errors import CheckpointError

    def fetch(*_: Any) -> Path:
        output.with_name(f"tried by {rank}").touch()
        raise CheckpointError("there is no network")

    starting.fetch = fetch


def know_speed(rank: int, _: Path) -> None:
    """Lets processes find different speeds; they measure nevertheless, as they have to do that together."""
    import detrkit.training.time_budget as time_budget
    from detrkit.training.timing import PieceTimes

    pieces, evaluation = time_budget.time_pieces, time_budget.time_evaluation

    def timed(*arguments: Any, **named: Any) -> PieceTimes:
        pieces(*arguments, **named | {"pieces": 2})
        return PieceTimes(piece=(0.4, 0.01)[rank], update=0.1, start=9.0, pieces=2)

    time_budget.time_pieces = timed
    time_budget.time_evaluation = lambda *arguments, **named: 0.0 * evaluation(*arguments, **named)
    time_budget.fit_to_time.__defaults__ = (lambda: 0.0,)


def arrange(kill: dict[str, Any] | None, rank: int) -> None:
    """Lets this process kill itself: in a step, in an evaluation, while it writes a checkpoint, or before or after it puts a file in its place.

    Args:
        kill: None, or {"in": one of `KILLS`, "call": which one, from 1 on, "rank": of whom}.
        rank: of this process.
    """
    import torch

    import detrkit.evaluation.runner as runner
    from detrkit.training.module import TrainingModule

    if kill is None or kill.get("rank", 0) != rank:
        return
    owner, name = {
        "step": (TrainingModule, "training_step"),
        "evaluation": (runner, "look"),
        "checkpoint": (torch, "save"),
        "file": (Path, "replace"),
        "after a file": (Path, "replace"),
    }[kill["in"]]
    original, calls = getattr(owner, name), [0]

    def dying(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] < kill["call"]:
            return original(*arguments, **named)
        if kill["in"] == "after a file":
            original(*arguments, **named)
        if kill["in"] == "checkpoint":
            original(*arguments, **named)
            Path(arguments[1]).write_bytes(Path(arguments[1]).read_bytes()[:1000])  # half of a file
        die()
        raise AssertionError

    setattr(owner, name, dying)


def die() -> None:
    """As if the power had gone."""
    os.kill(os.getpid(), signal.SIGKILL)


def until_finished(leg: dict[str, Any], folder: Path, kills: list[dict[str, Any]]) -> list[list[tuple[int, str]]]:
    """Trains with kills, and to the end after the last one. After each the run goes on, or where it cannot begins again in its folder."""
    results: list[list[tuple[int, str]]] = []
    for kill in [*kills, None]:
        run = Path(leg["train"]["output"])
        train = {"resume": str(run)} if (run / "resume.ckpt").is_file() else leg["train"]
        results.append(finished({"train": train, "kill": kill}, folder, len(results)))
        if results[-1][0][0] != -signal.SIGKILL:
            break
    return results


def at_random(seed: int, kills: int) -> list[dict[str, Any]]:
    """Kills at random moments."""
    moments, made = random.Random(seed), []
    for _ in range(kills):
        where = moments.choice(KILLS)
        call = moments.randint(1, 2 if where == "evaluation" else 8)  # epochs have four steps and one evaluation
        made.append({"in": where, "call": call})
    return made


def finished(leg: dict[str, Any], folder: Path, number: int) -> list[tuple[int, str]]:
    """Runs a leg to its end."""
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    port, count = find_free_network_port(), leg.get("processes", 1)
    outputs = [folder / f"leg{number}-{rank}.txt" for rank in range(count)]
    processes = [forked(leg, rank, port, output) for rank, output in enumerate(outputs)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    return [(code, output.read_text() if output.is_file() else "") for code, output in zip(codes, outputs, strict=True)]


def main() -> None:
    """Runs the legs of a file."""
    import torch

    import detrkit
    import detrkit.evaluation.runner
    import detrkit.training.run as run
    from detrkit.training.result import TrainingResult

    torch.set_num_threads(1)
    detrkit.build("detr-compact", classes=["a"])  # takes a second the first time, which each process would need
    # Reports and their charts have tests of their own.
    run.write_everything = lambda folder, *_: TrainingResult(folder.path, folder.best, None)  # type: ignore[assignment]
    plan = Path(sys.argv[1])
    results: list[Any] = []
    for number, leg in enumerate(json.loads(plan.read_text())):
        if "kills" in leg:
            results += until_finished(leg, plan.parent, leg["kills"])
        else:
            results.append(finished(leg, plan.parent, number))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
