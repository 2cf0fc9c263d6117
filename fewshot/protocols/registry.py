"""All test protocols by name: a new one is one file, and its name in fewshot/config.py."""

import importlib
import logging
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from episodes import ImageBank, sampler
from episodes.datasets import data_version
from fewshot.config import PROTOCOLS as NAMES
from fewshot.config import Evaluation
from fewshot.protocols.base import Protocol, Row, Task
from fewshot.tables import Sheet

log = logging.getLogger("fewshot")
PROTOCOLS: dict[str, Protocol] = {name: importlib.import_module(f"fewshot.protocols.{name}").PROTOCOL for name in NAMES}


def measure(name: str, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
    """The rows of a test protocol, with its columns, and its arrays; measures in percent, NAME_ci95 their half-width.

    InputError if the learner or the images cannot be tested so.
    """
    began = time.perf_counter()
    protocol, bank = PROTOCOLS[name], task.data["test"].bank
    common = {
        **task.columns,
        "dataset": bank.dataset,
        "split": bank.split,
        "protocol": bank.protocol,
        "data_version": data_version(bank.dataset, bank.protocol),
        "episodes_version": sampler.VERSION,
    }
    found, arrays = protocol.measure(task)
    common["eval_seconds"] = round((time.perf_counter() - began) / max(1, len(found)), 2)
    return [{column: {**common, **row}.get(column, "") for column in protocol.columns} for row in found], arrays


def check_protocols(wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
    """Raise InputError if one of the test protocols cannot draw its trials from the images; called before any
    training."""
    for name in PROTOCOLS:
        if name in wanted.protocols:
            PROTOCOLS[name].check(wanted, dict(banks))


def tell_remarks(wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
    """Log what the test protocols remark on their trials."""
    for name in PROTOCOLS:
        if name in wanted.protocols:
            for remark in PROTOCOLS[name].remarks(wanted, banks):
                log.warning("%s", remark)


def protocol_sheets(name: str, rows: pd.DataFrame) -> list[Sheet]:
    """The tables of one test protocol, from its rows alone."""
    return PROTOCOLS[name].sheets(rows, {})
