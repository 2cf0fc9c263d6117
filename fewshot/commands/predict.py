"""fewshot predict: label pictures by the few that a support folder shows of each class."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from episodes import ImageBank, InputError
from episodes.errors import counted
from fewshot.commands import arguments, outputs
from fewshot.files import writing
from fewshot.statistics import Interval

if TYPE_CHECKING:
    from fewshot.calibration import Calibration
    from fewshot.support_quality import LeftOut


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot predict`."""
    parser = commands.add_parser(
        "predict",
        parents=[arguments.data_folder()],
        help="label your own pictures",
        description="Answer each QUERY picture with one of the classes whose pictures the support folder shows. The"
        " validation classes of the data set that a checkpoint was trained on, if --data has them, calibrate the"
        " probabilities.",
        epilog="Example: fewshot predict MODEL/best.pt --support my-classes/ new-pictures/",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BACKBONE", help="best.pt of a run, or a backbone with weights")
    parser.add_argument(
        "queries", type=arguments.path, nargs="+", metavar="QUERY", help="pictures, folders or archives of pictures"
    )
    parser.add_argument(
        "--support",
        type=arguments.path,
        required=True,
        metavar="DIR",
        help="a folder, or an archive, with a folder of pictures for each class",
    )
    parser.add_argument(
        "--output",
        type=arguments.path,
        default=Path("answers.csv"),
        metavar="FILE.csv",
        help="the table of answers: file, answer, the probability of each class, and why a file cannot be read"
        " (default: answers.csv)",
    )
    parser.add_argument(
        "--reject",
        type=float,
        metavar="SHARE",
        help="answer 'none of these' if all scores are low; on average at most this share (0.5 or less) of the pictures"
        " that do show a class of the support folder gets this answer",
    )
    parser.add_argument(
        "--page",
        type=arguments.path,
        metavar="FILE.html",
        help="also write a page of the pictures, doubtful ones first",
    )
    outputs.add_overwrite(parser)
    parser.add_argument(
        "--learner",
        default="",
        metavar="NAME",
        help="with BACKBONE: the learner (default: simpleshot:l2n); with CHECKPOINT: FILE.py:CLASS if its learner is"
        " not installed",
    )
    arguments.add_device(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Open the model, answer all queries, write the csv file and print how sure the answers are."""
    for path in filter(None, [options.output, options.page]):
        outputs.check_new(path, options.overwrite)
    if options.page and options.page.resolve() == options.output.resolve():
        raise InputError(f"{options.page} cannot be the table and the page: choose two names")
    from fewshot import prediction  # these modules take a while to load
    from fewshot.confidence import confidence
    from fewshot.embedding import embedded
    from fewshot.loading import load
    from fewshot.support_quality import leave_one_out

    model = load(options.model, options.device, options.learner)
    queries = prediction.find_queries(options.queries)
    support = embedded(model.learner, prediction.read_support(options.support, model.spec))
    left_out = leave_one_out(model.learner, support) if int(support.bank.sizes.max()) > 1 else None
    sure = confidence(model, support, options.reject, data=options.data, left_out=left_out)
    print("\n".join([*quality_lines(support.bank, left_out), *confidence_lines(sure, options.reject)]))
    answered = prediction.answer(model, support, queries)
    answers = prediction.answers_of(answered, sure)
    chances = sure.probabilities(answered.scores)
    with writing(options.output.parent):
        prediction.write_csv(options.output, answered, answers, chances)
    if options.page:
        from fewshot.answer_page import write_page

        with writing(options.page.parent):
            write_page(options.page, answered, answers, chances, f"Answers by {Path(options.support).name}")
    damaged = sum(map(bool, answered.errors))
    written = " and ".join(map(str, filter(None, [options.output, options.page])))
    if damaged == len(queries):
        raise InputError(f"no query can be read as a picture: {options.output} says why")
    print(f"{counted(len(queries) - damaged, 'picture')} answered, {damaged:,} cannot be read; written to {written}")


def quality_lines(support: ImageBank, left_out: "LeftOut | None") -> list[str]:
    """The lines about the support set, known before any query is answered."""
    shots = sorted({*support.sizes.tolist()})
    counts = f"{shots[0]} to {shots[-1]} pictures" if len(shots) > 1 else counted(shots[0], "picture")
    lines = [f"support set: {support.classes} classes of {counts}"]
    if left_out is None:
        return [*lines, "no class shows two pictures, so nothing tells how good the support set is"]
    lines.append(f"left out of it and answered by the others: {_told(left_out.accuracy)} are right")
    lines += [f"  {name}: {_told(found)}" for name, found in left_out.by_class.items()]
    if left_out.confused:
        first, second, count = left_out.confused
        lines.append(f"taken for each other most often: {first} and {second}, {counted(count, 'time')}")
    return lines


def confidence_lines(sure: "Calibration", reject: float | None) -> list[str]:
    """How the temperature and the threshold were chosen, and what they did there."""
    lines = [f"note: {sure.remark}"] if sure.remark else []
    if not math.isnan(sure.error_after):
        lines.append(
            f"temperature {sure.temperature:.3g}: expected calibration error {100 * sure.error_before:.1f} % before,"
            f" {100 * sure.error_after:.1f} % after"
        )
    if reject is not None and not math.isnan(sure.known_refused):
        interval = "" if math.isnan(sure.known_ci95) else f" ± {100 * sure.known_ci95:.1f}"
        known = f"of pictures of known validation classes, {100 * sure.known_refused:.1f}{interval} % are refused"
        lines.append(f"{known} (95 % interval over classes)" if interval else known)
    if reject is not None and not math.isnan(sure.unknown_refused):
        lines.append(f"of pictures of unknown validation classes, {100 * sure.unknown_refused:.0f} % are refused")
    return lines


def _told(share: Interval) -> str:
    return f"{100 * share.estimate:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
