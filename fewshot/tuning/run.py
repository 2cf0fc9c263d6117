"""A search: the trials of every learner, by one process or several, and what they found."""

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from episodes import ImageBank, InputError
from episodes.datasets import ALL
from fewshot.benchmark import open_data
from fewshot.clamping import with_held_out
from fewshot.config import Config
from fewshot.devices import choose_device, placed, prepare
from fewshot.frozen import one_thread
from fewshot.learners.faults import fault_of
from fewshot.learners.registry import find_learner, lacks_weights, traits_of
from fewshot.scheduling.children import deaf_children, end_with_parent
from fewshot.scheduling.cluster import connected
from fewshot.tuning.cluster import RemoteStudy, on_cluster
from fewshot.tuning.output import write_results
from fewshot.tuning.space import Space
from fewshot.tuning.study import Search, SearchFolder, code_of, open_search, read_search
from fewshot.tuning.trial import model_of, run_trial

log = logging.getLogger("fewshot")

SPLITS = ("train", "validation")  # of a search, which never opens the test classes
_POLL = 1.0  # seconds between two looks at what the processes have finished


def tunable(config: Config, every: bool) -> Config:
    """The configuration with the learners that a search can tune: those that train, without weights of other data.

    every: leave out the others, as for 'all'; otherwise InputError for one of them. InputError if none is left, for
    several seeds, and for a run without base classes.
    """
    if config.data.test == ALL:
        raise InputError(f"the preset {config.preset} trains nothing, so nothing can be tuned: take another preset")
    if len(config.seeds) > 1:
        raise InputError(f"a search has one seed, not {len(config.seeds)}: name one with --seed")
    reasons = {asked: _untunable(config, asked) for asked in config.learner}
    for asked, why in reasons.items():
        if why and not every:
            raise InputError(f"{asked} cannot be tuned: it {why}")
    learners = {asked: one for asked, one in config.learner.items() if not reasons[asked]}
    if not learners:
        raise InputError("no learner of this run trains without weights: name one that does with --learner")
    return config.model_copy(update={"learner": learners})


def tune(
    config: Config,
    banks: dict[str, ImageBank],
    path: Path,
    *,
    trials: int = 30,
    budget: int = 60_000,
    workers: int = 1,
    ray: str = "",
    device: str = "auto",
    data: str | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Search the settings of every learner of `config`, and write what was found to the folder `path`; the gains.

    config   of `tunable`; its settings are the untuned start of each learner, at the same budget
    banks    of the splits train and validation
    trials   trainings of each learner, the untuned one among them; budget: images of a training
    workers  processes, of one thread each. One process repeats its search exactly if the seed is the same; of several,
             the order in which trials end matters too. data: the folder of the data sets, for these processes
    ray      the address of a Ray cluster that runs the trials instead (see tuning.cluster), '' for none
    resume   go on with the search in `path`. It may then have more trials and more learners

    Raises InputError if a learner cannot train at all, if `path` holds another search, or if there is no such cluster.
    """
    banks = with_held_out(banks, config.data.held_out)
    banks = {split: banks[split] for split in SPLITS}
    spaces = _spaces(config, banks, budget)
    for asked, space in spaces.items():
        model_of(config, asked, space.start, banks)  # an impossible training fails before all others
    with connected(ray, device) as cluster:  # leaves no folder if it refuses
        folder = open_search(path, Search.of(config, banks, trials, budget), resume)
        _tell_other_code(folder)
        asked_for = {asked: folder.search.config.learner[asked] for asked in config.learner}
        total = len(asked_for) * folder.search.trials
        with tqdm(total=total, desc="tune", unit="trial", disable=None) as bar:
            watch = _Watch(folder, list(asked_for), bar)
            watch()
            if cluster is not None:
                on_cluster(cluster, folder, banks, list(asked_for), device, work, watch)
            elif workers == 1:
                work(folder, banks, list(asked_for), device, watch)
            else:
                _side_by_side(workers, (path, list(asked_for), device, data), watch)
    gains = write_results(folder)
    if gains["chosen"].isna().all():
        raise InputError(f"no training of this search came to its end: {path / 'trials.csv'} says why")
    return gains


def work(
    folder: SearchFolder | RemoteStudy,
    banks: Mapping[str, ImageBank],
    learners: list[str],
    device: str,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until every learner has enough of them; `after` is called after each."""
    chosen = choose_device(device)
    prepare(chosen)
    banks = {split: placed(bank, chosen) for split, bank in banks.items()}
    spaces = _spaces(folder.search.config, banks, folder.search.budget)
    with one_thread(), folder.working() as worker:
        for asked in learners:
            while (trial := folder.claim(asked, worker, spaces[asked].in_optuna)) is not None:
                run_trial(folder, asked, trial, spaces[asked], banks, str(chosen))
                after()
                if chosen.type == "cuda":
                    torch.cuda.empty_cache()  # for the other processes on this GPU


class _Watch:
    """Shows how far a search is, and writes its results whenever a learner is finished."""

    def __init__(self, folder: SearchFolder, learners: list[str], bar: tqdm) -> None:
        self.folder, self.learners, self.bar = folder, learners, bar
        self.done: set[str] = set()

    def __call__(self) -> None:
        counts = {asked: len(self.folder.finished(asked)) for asked in self.learners}
        self.bar.update(sum(counts.values()) - self.bar.n)
        new = {asked for asked, count in counts.items() if count >= self.folder.search.trials} - self.done
        if new:
            self.done |= new
            write_results(self.folder)
            log.info("%s: all trials finished", ", ".join(asked for asked in self.learners if asked in new))


def _untunable(config: Config, asked: str) -> str:
    """Why a learner cannot be tuned; '' if it can."""
    cls, variant = find_learner(asked)
    settings, traits = config.learner[asked], traits_of(cls, variant)
    if not traits.trains or not settings.steps:
        return "does not train"
    if settings.per_shot:
        return "has settings for single shots (per_shot) in this preset: take a preset without them"
    if traits.external and not settings.weights:
        return lacks_weights(cls)
    return (
        "starts from weights of other data, and a search is for learners that train from the start"
        if settings.weights
        else ""
    )


def _tell_other_code(folder: SearchFolder) -> None:
    """Log how many of the earlier trials another version of the code has run."""
    for asked in folder.search.config.learner:
        others = sum(one.user_attrs["code"] != code_of(asked) for one in folder.finished(asked))
        if others:
            log.warning(
                "%s: %d trials in %s were run by another version of the code, and count: to leave them out, choose"
                " another folder with --output",
                asked,
                others,
                folder.path,
            )


def _spaces(config: Config, banks: Mapping[str, ImageBank], budget: int) -> dict[str, Space]:
    return {
        asked: Space.of(find_learner(asked)[0], settings, budget, banks["train"])
        for asked, settings in config.learner.items()
    }


def _side_by_side(workers: int, arguments: tuple[Any, ...], watch: _Watch) -> None:
    """Run `_process` in several processes; InputError with what one of them raised, once the others have been ended."""
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    processes = [context.Process(target=_process, args=(*arguments, errors), daemon=True) for _ in range(workers)]
    try:
        with deaf_children():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            watch()
            _check(processes, errors)
            time.sleep(_POLL)
        watch()
        _check(processes, errors)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join()


def _check(processes: Sequence[BaseProcess], errors: Any) -> None:
    if not errors.empty():
        raise InputError(errors.get())
    codes = [process.exitcode for process in processes if process.exitcode]
    if codes:
        raise InputError(
            f"a process of the search ended with code {codes[0]} before its work was done: the same command with"
            " --resume goes on, with fewer --workers if memory was short"
        )


def _process(path: Path, learners: list[str], device: str, data: str | None, errors: Any) -> None:
    """What each of several processes does; it opens the data again, which are prepared."""
    end_with_parent()
    torch.set_num_threads(1)
    try:
        search = read_search(path)
        _, banks = open_data(search.config, data, splits=SPLITS)
        banks = with_held_out(banks, search.config.data.held_out)
        work(SearchFolder(path, search), banks, learners, device)
    except Exception as error:
        fault = str(error) if isinstance(error, InputError) else fault_of(error)
        if not fault:  # a bug of ours
            raise
        errors.put(fault)
