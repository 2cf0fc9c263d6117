"""Class-incremental sessions (Tao et al. 2020): after the base classes, novel classes arrive a few at a time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from episodes import Episodes, ImageBank
from episodes.draws import stream
from episodes.errors import counted
from episodes.sessions import listed_order, session_sampler
from fewshot.config import Evaluation, Sessions
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner, scores_of
from fewshot.protocols.base import FIRST, LAST, Arrays, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.joint import (
    SUPPORT,
    BaseClasses,
    base_classes,
    check_finite,
    check_held_out,
    harmonic,
    share_right,
)
from fewshot.protocols.sheets import images_text, sheet_of, with_seeds
from fewshot.protocols.similarity import measuring
from fewshot.records import labels
from fewshot.statistics import Estimate, over_episodes
from fewshot.tables import Sheet

_CHUNK = {"cpu": 1 << 25, "cuda": 1 << 28, "mps": 1 << 26}  # numbers of embeddings, for each class of a session
_ROUNDED = 1e-4  # percent: rows hold four decimals
_HEADINGS = {
    "all": "all classes so far",
    "base": "base classes",
    "novel": "novel classes so far",
    "harmonic": "harmonic mean of novel and base",
}
_DROP = "PD"
_NOTE = (
    "Sessions: class-incremental learning (Tao et al. 2020). Session 0 has the base classes; each later session adds"
    " novel classes by a few images of each. A query may be of any class so far, and the queries of base classes are"
    " all images that were held out of training. The network does not change after session 0, and the learner scores"
    " the classes of a session by the images of that session alone; it scores base classes by their trained weights if"
    f" it has some, else by up to {SUPPORT} training images of each. Over all classes, each class counts the same."
    f" {_DROP}, the performance drop, is the accuracy over all classes in session 0 less that in the last session; the"
    " lowest is the best. ± is the 95 % interval over the draws, for this one trained model: it covers which {} are"
    " drawn"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Increments:
    """Shares of right answers among all classes so far, (draws, 1 + sessions) in [0, 1], after 0, 1, ... sessions.

    base          of the queries of base classes
    novel         of the queries of the novel classes so far, nan after no session
    base_classes  the number of base classes
    way           the number of classes that each session adds
    """

    base: np.ndarray
    novel: np.ndarray
    base_classes: int
    way: int

    @property
    def all(self) -> np.ndarray:
        """The share over all classes so far, each of which counts the same, (draws, 1 + sessions)."""
        added = self.way * np.arange(self.base.shape[1])
        return (self.base_classes * self.base + added * np.nan_to_num(self.novel)) / (self.base_classes + added)

    def percent(self, session: int) -> dict[str, Estimate]:
        """all, base, novel, harmonic and drop after `session` sessions, in percent with the 95 % interval over draws.

        harmonic: the harmonic mean of the means of novel and base, its interval by the delta method. drop: the accuracy
        over all classes before the first session less that after `session`. Before the first session nothing was drawn:
        there are no intervals, and novel and harmonic are nan.
        """
        first, base, novel, every = (
            100 * one for one in (self.all[:, 0], self.base[:, session], self.novel[:, session], self.all[:, session])
        )
        if session == 0:
            found = {"all": first[0], "base": first[0], "novel": np.nan, "harmonic": np.nan, "drop": 0.0}
            return {name: Estimate(float(value), np.nan) for name, value in found.items()}
        values = {"all": every, "base": base, "novel": novel, "harmonic": harmonic(novel, base), "drop": first - every}
        return {name: over_episodes(value) for name, value in values.items()}


def increment(
    learner: Learner, novel: EmbeddedBank, train: EmbeddedBank, held_out: EmbeddedBank, wanted: Sessions, seed: int
) -> tuple[Increments, str]:
    """How well `learner` tells all classes so far apart after each session, and `known` of BaseClasses.

    novel     the bank of the novel classes: see episodes.sessions.session_sampler for what each draw takes of it
    train     the images that the learner was trained on
    held_out  other images of the same classes; all of them are queries after each session
    The scores of the classes of a session come from the support images of that session alone, and stay as they are
    while more sessions follow. A query goes to the class with the highest score of all classes so far, and ties count
    as in the protocol generalised. Raises NotComparable if the learner cannot score base and novel classes together
    (see joint.check_joint), InputError if the banks cannot fill the sessions.
    """
    sampler = session_sampler(novel.bank, wanted.sessions, wanted.way, wanted.shot, wanted.query, seed, wanted.order)
    with measuring(learner, seed):
        base = base_classes(learner, novel, train, held_out)
        alone = base.held_out.best.new_full((1, len(held_out.bank), 1), -torch.inf)  # a class that nothing resembles
        before = float(share_right(alone, base.held_out.own, base.held_out, base.rounding).mean())
        at_once = max(1, _CHUNK[novel.device.type] // (wanted.way * novel.embeddings.shape[1]))  # images
        size = max(1, at_once // (sampler.way * sampler.shot + sampler.queries + len(held_out.bank)))
        found = []
        for part in sampler.batches(wanted.draws, size, novel.device):
            drawn = _Draws(learner, novel, part, wanted.sessions)
            right = drawn.novel_right(base), drawn.base_right(base, held_out, at_once)
            found.append(torch.stack(right).cpu().numpy().astype(np.float64))
    novel_right, base_right = np.concatenate(found, 1)  # (draws, sessions) each
    columns = [(0, 0), (1, 0)]
    return Increments(
        base=np.pad(base_right, columns, constant_values=before),
        novel=np.pad(novel_right, columns, constant_values=np.nan),
        base_classes=train.bank.classes,
        way=wanted.way,
    ), base.known


class _Draws:
    """Some draws, as episodes of the classes of all sessions, and how one learner answers their queries."""

    def __init__(self, learner: Learner, data: EmbeddedBank, episodes: Episodes, sessions: int) -> None:
        self._learner, self._data, self._episodes, self._sessions = learner, data, episodes, sessions
        self._way = episodes.classes.shape[1] // sessions
        assert episodes.keys is not None  # a sampler drew the episodes
        self._keys = episodes.keys
        self._support = data.embeddings[episodes.support].unflatten(1, (sessions, self._way))  # (E, S, W, K, D)

    def novel_right(self, base: BaseClasses) -> Tensor:
        """The share of right answers for the queries of the novel classes so far, after each session, (E, S)."""
        asked = self._episodes.query.flatten(1)
        scores = self._scores(self._data.embeddings[asked])
        own = scores.gather(2, self._episodes.targets.expand(len(asked), -1)[..., None])[..., 0]
        rivals, queries = base.novel.of(asked), asked.shape[1] // self._sessions
        right = []
        for session in range(1, self._sessions + 1):
            so_far = slice(session * queries)
            seen = scores[:, so_far, : session * self._way]
            right.append(share_right(seen, own[:, so_far], rivals.of((slice(None), so_far)), base.rounding).mean(1))
        return torch.stack(right, 1)

    def base_right(self, base: BaseClasses, held_out: EmbeddedBank, at_once: int) -> Tensor:
        """The share of right answers for all held-out images, after each session, (E, S); `at_once` of the images are
        scored at a time."""
        right = []
        for images in torch.arange(len(held_out.bank), device=self._data.device).split(at_once):
            scores = self._scores(held_out.embeddings[images].expand(len(self._episodes), -1, -1))
            rivals = base.held_out.of(images)
            shares = [
                share_right(scores[..., : session * self._way], rivals.own, rivals, base.rounding).sum(1)
                for session in range(1, self._sessions + 1)
            ]
            right.append(torch.stack(shares, 1))
        return torch.stack(right).sum(0) / len(held_out.bank)

    def _scores(self, query: Tensor) -> Tensor:
        """Scores (E, Q, S * W) of queries (E, Q, D) for the classes of all sessions, session after session."""
        found = [
            scores_of(self._learner, self._support[:, session], query, stream(session, self._keys))
            for session in range(self._sessions)
        ]
        scores = torch.cat(found, 2)
        check_finite(self._learner, scores)
        return scores


class SessionsProtocol(Protocol):
    """Sessions of novel classes after all base classes; sessions.npz keeps the shares of right answers of each draw."""

    name = "sessions"
    needs_base = True
    arrays = "sessions.npz"
    columns = (
        *FIRST,
        *("session", "classes", "way", "shot", "query", "draws", "order", "base_classes", "base_known"),
        *with_widths(*_HEADINGS, "drop"),
        *LAST,
    )

    def settings(self, wanted: Evaluation, shots: Sequence[int]) -> Row:
        found = super().settings(wanted, shots)
        return {**found, "order": listed_order(found["order"]) if found["order"] else []}

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        check_held_out(self.name, banks)
        own = wanted.sessions
        session_sampler(banks["test"], own.sessions, own.way, own.shot, own.query, wanted.seed, own.order)

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        wanted, model = task.wanted.sessions, task.columns["model"]
        test, train, held_out = (task.data[split] for split in ("test", "train", "held_out"))
        found, known = increment(task.learner, test, train, held_out, wanted, task.wanted.seed)
        base = {"base_classes": found.base_classes, "base_known": known, "order": Path(wanted.order).name}
        about = {**wanted.model_dump(include={"way", "shot", "query", "draws"}), **base}
        rows = [
            {
                **about,
                "session": session,
                "classes": found.base_classes + session * wanted.way,
                **in_columns(found.percent(session)),
            }
            for session in range(wanted.sessions + 1)
        ]
        return rows, {f"{model}/base": found.base, f"{model}/novel": found.novel}

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        drawn = "images" if rows["order"].iloc[0] else "classes, in which order, and which images"
        return with_seeds(rows, _NOTE.format(drawn), _sheets)

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        return [_unlike(row, arrays) for _, row in rows.iterrows()]


PROTOCOL = SessionsProtocol()


def _unlike(row: pd.Series, arrays: Arrays) -> str:
    """Why a row is not the mean of its draws, '' if it is."""
    cell = f"{row['learner']}, session {row['session']}, seed {row['seed']}"
    for name in ("base", "novel"):
        values = arrays.get(f"{row['model']}/{name}", np.empty((0, 0)))
        if values.ndim != 2 or len(values) != row["draws"] or values.shape[1] <= row["session"]:
            return f"sessions.npz lacks the draws of {cell}"
        if values.dtype.kind != "f":
            return f"sessions.npz holds values of type {values.dtype}, which are no accuracies, of {cell}"
        mean = 100 * float(values[:, row["session"]].mean())
        if not np.isclose(mean, row[name], rtol=0, atol=_ROUNDED, equal_nan=True):
            return f"sessions.csv says {name} = {row[name]} of {cell}, but the mean of its draws is {mean:.4f}"
    return ""


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    row = rows.iloc[0]
    common = (
        f"{images_text(rows)}: accuracy in percent after each session, a column each; {row['base_classes']:,} base"
        f" classes and {row['way']} novel ones a session with {counted(row['shot'], 'image')} each"
        + (f" in the order of {row['order']}" if row["order"] else "")
        + f", over {row['draws']:,} draws{seeds}"
    )
    rows = rows.assign(label=labels(rows))
    learners = pd.Index(rows["label"].unique())
    sessions = {int(one): rows[rows["session"] == one].set_index("label") for one in sorted(rows["session"].unique())}
    made = []
    for measure, text in _HEADINGS.items():
        cells = {str(session): (own[measure], own[f"{measure}_ci95"]) for session, own in sessions.items()}
        if measure in ("novel", "harmonic"):
            del cells["0"]
        if measure == "all":
            last = sessions[max(sessions)]
            cells[_DROP] = last["drop"], last["drop_ci95"]
        made.append(sheet_of(f"Sessions, {text}", f"{common}, {text}", learners, cells, note, lowest=[_DROP]))
    return made
