"""fewshot status: how far a run has come, and how long the rest will take."""

import argparse
import dataclasses
import json

from rich.console import Console
from rich.table import Table

from fewshot.commands import arguments
from fewshot.records import duration
from fewshot.status import RunStatus, status_of


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot status`."""
    parser = commands.add_parser(
        "status",
        help="tell how far a run has come, and how long the rest will take",
        epilog="Example: fewshot status results/quick-omniglot",
    )
    parser.add_argument("run", type=arguments.path, metavar="RUN", help="a run's folder, in progress or finished")
    parser.add_argument("--json", action="store_true", help="for programs: one object, with times in seconds")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Print each model of the run with its state, and one line about the whole run."""
    found = status_of(options.run)
    if options.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return
    table = Table()
    for heading in ("model", "state", "step", "validation", "time", "time left"):
        table.add_column(heading, justify="left" if heading in ("model", "state") else "right", overflow="fold")
    for model in found.models:
        step = f"{model.step:,} of {model.steps:,}" if model.steps else ""
        accuracy = "" if model.accuracy is None else f"{model.accuracy:.2f} %"
        left = "" if model.state == "finished" else duration(model.left)
        table.add_row(model.name, model.state, step, accuracy, duration(model.seconds), left)
    console.print(table)
    print(_whole(found))


def _whole(found: RunStatus) -> str:
    counts = [f"{found.count('finished')} of {len(found.models)} models finished"]
    counts += [f"{found.count(state)} {state}" for state in ("trained", "running", "waiting") if found.count(state)]
    if found.count("finished") == len(found.models):
        return counts[0]
    about = "how long the rest takes is not known yet" if found.left is None else f"about {duration(found.left)} left"
    return f"{', '.join(counts)}; {about}"
