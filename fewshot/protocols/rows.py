"""What each protocol says of a trained learner, as tidy rows: the one way to run them, for runs and checkpoints."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from episodes import EpisodeSampler, ImageBank, InputError
from fewshot.config import Evaluation
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.protocols.generalised import generalise
from fewshot.protocols.retrieval import retrieve
from fewshot.protocols.verification import draw_pairs, verify
from fewshot.statistics import Estimate
from fewshot.tables import LATER, LEAGUE

_MODEL = ["dataset", "split", "learner", "variant", "backbone", "seed"]
_ABOUT = ["eval_seconds", "protocol", "image_size", *LEAGUE, "device", "precision", "torch", *LATER]


def _with_widths(*measures: str) -> list[str]:
    return [column for measure in measures for column in (measure, f"{measure}_ci95")]


RECALLS = ["recall1", "recall2", "recall4", "recall8"]
COLUMNS = {
    "verification": [
        *_MODEL,
        "pairs",
        "similarity",
        *_with_widths("auc", "eer", "accuracy", "tar"),
        "threshold",
        *_ABOUT,
    ],
    "retrieval": [*_MODEL, "images", "similarity", *_with_widths(*RECALLS, "map_at_r"), "nmi", "nmi_std", *_ABOUT],
    "generalised": [
        *_MODEL,
        *("way", "shot", "query", "episodes", "base_classes", "base_known"),
        *_with_widths("novel", "base", "all", "harmonic"),
        *_ABOUT,
    ],
}


def measure(
    protocol: str, learner: Learner, data: dict[str, EmbeddedBank], wanted: Evaluation, columns: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows of `protocol`, one of COLUMNS; measures in percent, NAME_ci95 the half-width of their interval.

    data: by split; 'test' are the images that are measured, 'train' those it was trained on, 'held_out' those of the
    same classes that it was not trained on. columns: what else the rows say of the model. InputError where the learner
    or the images cannot do it.
    """
    began = time.perf_counter()
    bank = data["test"].bank
    about = {**columns, "dataset": bank.dataset, "split": bank.split, "protocol": bank.protocol}
    found = _MEASURES[protocol](learner, data, wanted)
    seconds = {"eval_seconds": round((time.perf_counter() - began) / len(found), 2)}
    return [{name: {**about, **row, **seconds}.get(name, "") for name in COLUMNS[protocol]} for row in found]


def check_protocols(wanted: Evaluation, banks: dict[str, ImageBank]) -> None:
    """InputError where the images cannot give one of the protocols, so that it is told before any training."""
    test, more = banks["test"], [name for name in wanted.protocols if name != "episodes"]
    if more and test.listed:
        raise InputError(f"{test.name} lists its episodes, and gives no other protocol: leave out {' and '.join(more)}")
    if "verification" in more:
        for bank in (test, banks["validation"]):
            draw_pairs(bank, 1, wanted.seed)
    if "generalised" in more:
        if "held_out" not in banks:
            raise InputError(
                "generalised asks about images of base classes that training has not seen, and none were held out:"
                " train with held_out = 5 in [data], or --held-out 5, into a folder of its own"
            )
        for shot in wanted.generalised.shots:
            EpisodeSampler(test, wanted.generalised.way, shot, wanted.generalised.query, wanted.seed)


def _verification(learner: Learner, data: dict[str, EmbeddedBank], wanted: Evaluation) -> list[dict[str, Any]]:
    pairs = wanted.verification.pairs
    found = verify(learner, data["test"], data["validation"], pairs, wanted.seed)
    measures = {name: getattr(found, name) for name in ("auc", "eer", "accuracy", "tar")}
    about = {"pairs": pairs, "similarity": found.similarity, "threshold": float(f"{found.threshold:.6g}")}
    return [{**about, **_columns(measures)}]


def _retrieval(learner: Learner, data: dict[str, EmbeddedBank], wanted: Evaluation) -> list[dict[str, Any]]:
    found = retrieve(learner, data["test"], wanted.seed)
    measures = {**dict(zip(RECALLS, found.recall.values())), "map_at_r": found.map_at_r}
    about = {"images": len(data["test"].bank), "similarity": found.similarity}
    return [{**about, "nmi": round(found.nmi, 4), "nmi_std": round(found.nmi_std, 4), **_columns(measures)}]


def _generalised(learner: Learner, data: dict[str, EmbeddedBank], wanted: Evaluation) -> list[dict[str, Any]]:
    settings = wanted.generalised.model_dump()
    found, known = generalise(learner, data["test"], data["train"], data["held_out"], **settings, seed=wanted.seed)
    about = {**settings, "base_classes": data["train"].bank.classes, "base_known": known}
    return [{**about, "shot": joint.shot, **_columns(joint.percent)} for joint in found]


_MEASURES: dict[str, Callable[[Learner, dict[str, EmbeddedBank], Evaluation], list[dict[str, Any]]]] = {
    "verification": _verification,
    "retrieval": _retrieval,
    "generalised": _generalised,
}


def _columns(measures: dict[str, Estimate]) -> dict[str, float]:
    """Each measure and its half-width, nan where it has none."""
    return {
        name: round(value, 4) if np.isfinite(value) else np.nan
        for measure, estimate in measures.items()
        for name, value in ((measure, estimate.mean), (f"{measure}_ci95", estimate.ci95))
    }
