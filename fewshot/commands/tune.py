"""fewshot tune: search the settings of learners, alike for all, and write the best ones as a preset."""

import argparse
import importlib.util
import shlex

import pandas as pd
from rich.console import Console
from rich.table import Table

from episodes import InputError
from fewshot.benchmark import open_data
from fewshot.commands import arguments
from fewshot.config import load_config


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot tune`."""
    parser = commands.add_parser(
        "tune",
        parents=[arguments.run_settings("results/tune-DATASET", "only missing trials are computed")],
        help="search the settings of learners on validation classes, write them as a preset",
        description="Search the settings of learners, with the same number of trials and images for each, by the"
        " accuracy on validation classes. The folder, by default results/tune-DATASET, gets tuned.toml, a preset for"
        " 'fewshot bench', tables of what was gained, and a page.",
        epilog="Example: fewshot tune --learner npair,prototypical --dataset omniglot",
    )
    parser.add_argument(
        "--learner",
        type=arguments.names_of("learner"),
        metavar="NAME[,NAME]",
        help=f"{arguments.LEARNER}; several with commas; 'all' for every learner of the suite that trains without"
        " weights (default: the preset's)",
    )
    parser.add_argument(
        "--trials", type=arguments.count, default=30, metavar="T", help="trainings of each learner (default: 30)"
    )
    parser.add_argument(
        "--budget", type=arguments.count, default=60_000, metavar="B", help="images of a training (default: 60000)"
    )
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument(
        "--workers", type=arguments.positive, default=1, metavar="N", help="processes of one thread each (default: 1)"
    )
    arguments.add_ray(one_of, "the trials")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Run the search; print what each learner gained, and which files hold what was found."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError("fewshot tune needs the package optuna: pip install optuna")
    # these need Optuna
    from fewshot.tuning.run import SPLITS, tunable, tune
    from fewshot.tuning.study import check_free

    wanted = load_config(
        options.preset,
        learners=options.learner,
        dataset=options.dataset,
        seeds=options.seed,
        size=options.size,
        held_out=options.held_out,
        min_images=options.min_images,
        skip_damaged=options.skip_damaged,
    )
    wanted = tunable(wanted, every=options.learner == ["all"])
    folder = options.output or arguments.default_folder("tune", wanted.data.dataset)
    check_free(folder, options.resume)
    config, banks = open_data(wanted, options.data, splits=SPLITS)
    folder = options.output or arguments.default_folder("tune", config.data.dataset)
    gains = tune(
        config,
        banks,
        folder,
        trials=options.trials,
        budget=options.budget,
        workers=options.workers,
        ray=options.ray,
        device=options.device,
        data=options.data,
        resume=options.resume,
    )
    console.print(_table(gains))
    print(f"Written to {folder}: tuned.toml, gains.csv, importance.csv, trials.csv and search.html")
    print(f"Next: fewshot bench --preset {shlex.quote(str(folder / 'tuned.toml'))} --seed 0,1,2")


def _table(gains: pd.DataFrame) -> Table:
    table = Table("learner", "untuned", "tuned", "gain", "trials", title="Accuracy on validation classes in percent")
    for row in gains.itertuples():
        numbers = (f"{row.untuned:.2f}", f"{row.tuned:.2f}", f"{row.gain:.2f} ± {row.gain_ci95:.2f}")
        table.add_row(str(row.learner), *numbers, str(row.trials))
    return table
