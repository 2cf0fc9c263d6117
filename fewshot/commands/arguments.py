"""What the arguments of several commands share: their types, and the parsers that commands take over."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from episodes import InputError
from episodes.datasets import short_name
from episodes.errors import unknown_name
from episodes.kinds import check_kind, kind_names
from fewshot.config import PROTOCOLS

DATASET = (
    "a data set of 'fewshot data list', or a folder of images; append :PROTOCOL to choose a split protocol, and :grey,"
    " :rgb or :inverted to change the colours of the images"
)
EVERY = "'all' for every learner of the suite that can run here"
LEARNER = "NAME, NAME:VARIANT or FILE.py:CLASS, each optionally with @BACKBONE"
SPLIT = "train, validation, test, or all (every class of the data set)"
KIND = f"kind of episodes: {', '.join(kind_names())}"
PROTOCOL = f"test protocol: {', '.join(PROTOCOLS)}"

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what a command adds its parser to


def data_folder() -> argparse.ArgumentParser:
    """The argument of every command that reads data sets."""
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", metavar="DIR", help="the folder of the data sets (default: $FEWSHOT_DATA)")
    return data


def add_ray(group: argparse._MutuallyExclusiveGroup, what: str) -> None:
    """The argument for a Ray cluster that runs `what`, in place of processes of this machine."""
    group.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS|auto",
        help=f"run {what} on a Ray cluster: HOST:PORT of its head node, or auto for the cluster that this machine is"
        " part of",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """The argument of every command that computes with a network."""
    parser.add_argument(
        "--device", default="auto", metavar="D", help="what computes: auto, cpu, cuda, cuda:N or mps (default: auto)"
    )


def add_volume(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that logs what it does."""
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="print results and warnings alone")
    volume.add_argument(
        "--verbose", action="store_true", help="print more, such as each validation, with the time of each line"
    )


def reading() -> argparse.ArgumentParser:
    """The arguments that say which images of a folder are left out."""
    left_out = argparse.ArgumentParser(add_help=False)
    left_out.add_argument(
        "--min-images",
        type=number,
        default=0,
        metavar="K",
        help="in a folder of images, leave out classes with fewer than K",
    )
    left_out.add_argument("--skip-damaged", action="store_true", help="in a folder of images, leave out damaged ones")
    return left_out


def run_settings(folder: str, resumed: str) -> argparse.ArgumentParser:
    """The arguments of every command that trains: the data, the settings and the output folder.

    folder: what help says the default folder is; resumed: and what it says that --resume leaves to be computed
    """
    run = argparse.ArgumentParser(add_help=False, parents=[data_folder(), reading()])
    run.add_argument(
        "--preset", default="quick", metavar="NAME|FILE.toml", help="the settings of the run (default: quick)"
    )
    run.add_argument("--dataset", metavar="NAME|DIR", help=f"{DATASET} (default: the preset's)")
    add_device(run)
    run.add_argument("--size", type=int, metavar="PIXELS", help="image height and width (default: the preset's)")
    run.add_argument("--output", type=path, metavar="DIR", help=f"the run's folder (default: {folder})")
    run.add_argument("--seed", type=seeds, metavar="N[,N]", help="training seeds (default: the preset's)")
    run.add_argument(
        "--held-out",
        type=int,
        metavar="K",
        help="withhold K images of each base class from training; the test protocols generalised and sessions need them"
        " (default: the preset's)",
    )
    run.add_argument("--resume", action="store_true", help=f"continue the run in the folder: {resumed}")
    return run


def seeds(text: str) -> list[int]:
    """Training seeds with commas between them, each from 0 to 2**63 - 1."""
    numbers = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(numbers) != len(text.split(",")) or max(numbers) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on, nor several with commas")
    return numbers


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least} to {most:,}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, 1, 2**31 - 1)


def several(text: str) -> int:
    """A whole number from 2 on."""
    return _whole(text, 2, 2**31 - 1)


def counts(text: str) -> list[int]:
    """Whole numbers with commas between them, repeats left out."""
    return list(dict.fromkeys(count(part.strip()) for part in text.split(",")))


def number(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, 0, 10**18)


def positive(text: str) -> int:
    """A whole number from 1 to 4,096."""
    return _whole(text, 1, 4096)


def workers(text: str) -> int | Literal["auto"]:
    """'auto', or a whole number from 1 to 4,096."""
    return "auto" if text == "auto" else positive(text)


def names_of(what: str) -> Callable[[str], list[str]]:
    """The type of an argument that names several of `what`, with commas."""

    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if not found:
            raise argparse.ArgumentTypeError(f"name at least one {what}")
        return found

    return names


def path(text: str) -> Path:
    """A path that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def check_protocol(name: str) -> None:
    """InputError if there is no test protocol of that name."""
    if name not in PROTOCOLS:
        raise unknown_name("test protocol", name, PROTOCOLS)


def add_kinds(parser: argparse.ArgumentParser) -> None:
    """The kinds of episodes of the test protocol kinds."""
    parser.add_argument(
        "--kind",
        type=names_of("kind of episodes"),
        metavar="NAME[,NAME]",
        help=f"{KIND}; several with commas, for the test protocol kinds (default: dirichlet:2)",
    )


def check_kinds(kinds: list[str] | None, protocols: Sequence[str]) -> None:
    """InputError for kinds of episodes that there are not, or that are named for test protocols without kinds."""
    if kinds and "kinds" not in protocols:
        raise InputError("--kind names kinds of episodes for the test protocol kinds: add --protocol kinds")
    for kind in kinds or []:
        check_kind(kind)


def default_folder(preset: str, dataset: str) -> Path:
    """The folder of a run if none was chosen: results/PRESET-DATASET."""
    return Path("results") / f"{Path(preset).stem}-{short_name(dataset)}"
