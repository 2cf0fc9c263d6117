"""fewshot train: train one learner and write its checkpoint."""

import argparse
import shlex
from pathlib import Path

from rich.console import Console

from fewshot.benchmark import check_trainings_free, open_data, train_learner
from fewshot.commands import arguments
from fewshot.config import load_config


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot train`."""
    parser = commands.add_parser(
        "train",
        parents=[
            arguments.run_settings("results/train-PRESET-DATASET", "only what is left of the trainings is computed")
        ],
        help="train one learner, write its checkpoint",
        description="Train one learner on the base classes of a data set, without a test, and write its checkpoints.",
        epilog="Example: fewshot train --learner prototypical --seed 1",
    )
    parser.add_argument("--learner", required=True, metavar="NAME", help=arguments.LEARNER)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Train the learner once a seed, and print the checkpoint of each training."""
    wanted = load_config(
        options.preset,
        learners=[options.learner],
        dataset=options.dataset,
        seeds=options.seed,
        size=options.size,
        held_out=options.held_out,
        min_images=options.min_images,
        skip_damaged=options.skip_damaged,
    )
    name = f"train-{Path(options.preset).stem}"
    check_trainings_free(options.output or arguments.default_folder(name, wanted.data.dataset), wanted, options.resume)
    config, banks = open_data(wanted, options.data, splits=("train", "validation"))
    folder = options.output or arguments.default_folder(name, config.data.dataset)
    for path in train_learner(config, banks, folder, device=options.device, resume=options.resume):
        print(f"Written to {path.parent}; next: fewshot evaluate {shlex.quote(str(path))}")
