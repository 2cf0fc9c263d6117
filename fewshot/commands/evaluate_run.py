"""fewshot evaluate RUN: test all models of a finished run on other data sets."""

import argparse

from rich.console import Console

from episodes import InputError
from episodes.datasets import full_name
from fewshot import tables
from fewshot.commands import arguments, outputs
from fewshot.config import Config, evaluation_from, read_config
from fewshot.files import replace_text, write_arrays, writing
from fewshot.protocols.domains import PROTOCOL
from fewshot.trained_run import measure_on_others

_PAGE = "domains.md"


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure the models of the run, print the tables, and write them and their rows if there is an output folder."""
    _check(options)
    found = measure_on_others(
        options.checkpoint, _config(options), options.data, learner=options.learner or "", device=options.device
    )
    sheets = PROTOCOL.sheets(*found)
    tables.show(sheets, console)
    if options.output:
        rows, arrays = found
        with writing(options.output):
            options.output.mkdir(parents=True, exist_ok=True)
            write_arrays(options.output / PROTOCOL.arrays, arrays)
            replace_text(options.output / _PAGE, tables.markdown(sheets))
            replace_text(options.output / PROTOCOL.table, rows.to_csv(index=False))
        print(f"Written to {options.output}: {PROTOCOL.table}, {PROTOCOL.arrays} and {_PAGE}")


def _check(options: argparse.Namespace) -> None:
    """InputError for arguments that a run does not take."""
    path = options.checkpoint
    if not (path / "config.toml").is_file():
        raise InputError(f"{path} is no run's folder: name one that 'fewshot bench' has written, or a checkpoint in it")
    if not options.dataset:
        raise InputError(f"{path} is a run's folder: name the data sets to test its models on with --dataset NAME,NAME")
    if options.protocol not in ("episodes", PROTOCOL.name) or options.split != "test":
        raise InputError("the models of a run are tested by domains, on test classes: leave out --protocol and --split")
    if options.output and (options.output / "config.toml").exists():
        raise InputError(f"{options.output} already holds a run: choose another folder with --output")
    if options.output:
        outputs.check_new_in(options.output, (PROTOCOL.table, PROTOCOL.arrays, _PAGE), options.overwrite)


def _config(options: argparse.Namespace) -> Config:
    """The configuration of the run, with the data sets and episodes of this test."""
    config = read_config(options.checkpoint / "config.toml")
    names = [full_name(name) for name in arguments.names_of("data set")(options.dataset)]
    asked = {"ways": options.way, "shots": options.shot, "query": options.query}
    asked |= {"episodes": options.episodes, "seed": options.seed}
    given = {
        name: [value] if name in ("ways", "shots") else value for name, value in asked.items() if value is not None
    }
    own = {**config.evaluation.model_dump(), "protocols": [PROTOCOL.name], "domains": {"datasets": names}}
    left_out = {"min_images": options.min_images, "skip_damaged": options.skip_damaged}
    data = config.data.model_copy(update={name: value for name, value in left_out.items() if value})
    return config.model_copy(update={"data": data, "evaluation": evaluation_from({**own, **given})})
