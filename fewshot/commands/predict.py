"""fewshot predict: label pictures by the few that a support folder shows of each class."""

import argparse
from pathlib import Path

from rich.console import Console

from episodes import InputError
from fewshot.commands import arguments


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot predict`."""
    parser = commands.add_parser(
        "predict",
        parents=[arguments.data_folder()],
        help="label your own pictures",
        description="Answer each QUERY picture with one of the classes whose pictures the support folder shows.",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BACKBONE", help="best.pt of a run, or a backbone with weights")
    parser.add_argument(
        "queries", type=arguments.path, nargs="+", metavar="QUERY", help="pictures, folders or archives of pictures"
    )
    parser.add_argument(
        "--support", type=arguments.path, required=True, metavar="DIR", help="a folder with a folder for each class"
    )
    parser.add_argument(
        "--output",
        type=arguments.path,
        default=Path("answers.csv"),
        metavar="FILE.csv",
        help="file, answer, a probability of each class, error (default: answers.csv)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files that are there")
    parser.add_argument("--learner", default="", metavar="NAME", help=f"{arguments.LEARNER}, if it is not to be found")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu or cuda (default: auto)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Open the model, answer all queries, and write the csv file."""
    outputs = [options.output]
    for path in outputs:
        _check_free(path, options.overwrite)
    from fewshot import prediction  # these modules take a while to load
    from fewshot.calibration import Calibration
    from fewshot.loading import load

    model = load(options.model, options.device, options.learner)
    queries = prediction.find_queries(options.queries)
    support = prediction.read_support(options.support, model.spec)
    answered = prediction.answer(model, support, queries)
    calibration = Calibration()
    chances = calibration.probabilities(answered.scores)
    answers = [support.class_names[row.argmax()] if not error else "" for row, error in zip(chances, answered.errors)]
    prediction.write_csv(options.output, answered, answers, chances)
    damaged = len(queries) - int(answered.read.sum())
    print(f"{len(queries):,} pictures answered, {damaged:,} of them cannot be read; written to {options.output}")


def _check_free(path: Path, overwrite: bool) -> None:
    """InputError if `path` cannot be written, or is there already."""
    if path.exists() and not (overwrite and path.is_file()):
        raise InputError(f"{path} is there already: choose another name, or replace the file with --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written, since there is no folder {path.parent}: make it first")
