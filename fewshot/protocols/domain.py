"""Another domain in words: a classifier of one style of images learns another style from its description alone.

The domains are the groups of the classes, such as outline and solid, and a class shows a thing in one of them. The
network is trained already, with the names of base classes; a linear probe on its embeddings learns the things of the
test from images of the source domain.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from episodes import FeatureBank, ImageBank, InputError, class_texts
from episodes.draws import stream
from episodes.errors import counted
from episodes.texts import class_text
from fewshot.adaptation import lads, poda
from fewshot.config import Domain, Evaluation
from fewshot.devices import exact
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import Learner
from fewshot.learners.clip import CLIP
from fewshot.learners.image_text_heads import ImageTextHead
from fewshot.protocols.base import FIRST, LAST, Arrays, NotComparable, Protocol, Row, Task, in_columns, with_widths
from fewshot.protocols.sheets import images_text, sheet_of, with_seeds
from fewshot.protocols.similarity import measuring
from fewshot.records import labels
from fewshot.statistics import Estimate, over_classes
from fewshot.tables import Sheet

_ROUNDED = 1e-4  # percent: rows hold four decimals
_MOST_DOMAINS = 10
_COST = 100.0  # of errors in the linear probe: embeddings have length one, so that the usual 1 is too smooth a fit
_ALIGNMENT = 0.9  # weight of the alignment of 'LADS, source images', chosen on validation names
NONE, CEILING = "none", "target images"
_ORDER = (NONE, "text direction", "LADS", "LADS, source images", "PODA", "image direction", CEILING)  # of tables
_HEADINGS = {
    "source_accuracy": "on the source domain",
    "target_accuracy": "on the target domain",
    "gain": "gain",
    "closed": "share of the gap closed",
}
_NOTE = (
    "Another domain in words: a linear probe on the embeddings of a trained image-text model learns from images of the"
    " source domain, and from what an adaptation makes of them. Three adaptations know the target domain by its words"
    " alone: 'text direction' moves embeddings by the difference of the texts of both domains; LADS (Dunlap et al."
    " 2023), also with class consistency by the source images in place of the names; and PODA (Fahes et al. 2023)."
    " 'image direction' moves embeddings by the difference of the mean images of both domains, and 'target images', the"
    " ceiling, learns from labelled images of the target domain. The gain is over no adaptation, and the gap is the"
    " gain of the ceiling. ± is the 95 % interval over classes: it covers other classes with their images, for this one"
    " trained model; gains and shares are of the same images, in pairs"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """From one domain to another, for the C things that both show; source, target (C,): the classes of the things."""

    words: tuple[str, str]
    things: tuple[str, ...]
    source: Tensor
    target: Tensor

    @property
    def name(self) -> str:
        """'outline to solid'."""
        return " to ".join(self.words)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """The embeddings of the texts of C things, (C, D) each of length one: the name alone, and in each domain."""

    plain: Tensor
    source: Tensor
    target: Tensor

    @property
    def directions(self) -> Tensor:
        return self.target - self.source


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """What is found of one transfer.

    right   the share of right answers of each class in each draw, (2, draws, C) in [0, 1], on the source and on the
            target domain, by adaptation; the first is none, the last the ceiling
    cosines (C,): of the direction from the text of a class in the source domain to that in the target domain, with the
            direction from the mean of its source images to that of its target images
    """

    right: dict[str, np.ndarray]
    cosines: np.ndarray

    def measures(self, adaptation: str) -> dict[str, Estimate]:
        """The columns of _HEADINGS in percent, and `cosine`, with 95 % intervals over classes.

        The share of the gap closed is the ratio of two mean gains, its interval by the delta method; nan if there is no
        gap.
        """
        source, target = (100 * part for part in self.right[adaptation])
        gain, gap = target - 100 * self.right[NONE][1], 100 * (self.right[CEILING][1] - self.right[NONE][1])
        found = {"source_accuracy": source, "target_accuracy": target, "gain": gain}
        measures = {name: _over(values) for name, values in found.items()}
        measures["closed"] = _over(100 * _ratio(gain, gap)) if gap.mean() > 0 else Estimate(np.nan, np.nan)
        return {**measures, "cosine": _over(self.cosines[None])}


def transfers(bank: ImageBank, fewest: int = 1) -> list[Transfer]:
    """From every domain of the bank to every other one, for the things with `fewest` images or more in both.

    The text of a class begins with the text of its group: 'outline arrow left' of 'outline'. InputError if no two
    groups show two of the same things.
    """
    places: dict[str, dict[str, int]] = {}
    for number, (text, group, size) in enumerate(zip(class_texts(bank), bank.group_names, bank.sizes.tolist())):
        domain = class_text(group)
        if group and text.startswith(f"{domain} ") and size >= fewest:
            places.setdefault(domain, {})[text.removeprefix(f"{domain} ")] = number
    found = []
    for one, other in permutations(places, 2):
        things = tuple(thing for thing in places[one] if thing in places[other])
        if len(things) > 1:
            numbers = (torch.tensor([places[domain][thing] for thing in things]) for domain in (one, other))
            found.append(Transfer((one, other), things, *numbers))
    if not found or len(places) > _MOST_DOMAINS:
        raise InputError(
            f"{bank.name} has no two to {_MOST_DOMAINS} groups that show the same things with"
            f" {counted(fewest, 'image')} or more each, such as the classes 'outline arrow' and 'solid arrow' of the"
            " groups outline and solid: take icons:styles, or leave out domain"
        )
    return found


def adapt(learner: CLIP, data: EmbeddedBank, transfer: Transfer, wanted: Domain, seed: int) -> Adapted:
    """How well a linear probe on the embeddings of `learner` does in both domains, with each adaptation.

    Each draw takes `shot` images of each class to train on and `query` others to test; the training images of the
    target domain are for 'image direction' and the ceiling alone.
    """
    bank, size = data.bank, wanted.shot + wanted.query
    right: dict[str, list[np.ndarray]] = {}
    with measuring(learner, seed):
        texts = _texts(learner, data, transfer)
        for draw in range(wanted.draws):
            torch.manual_seed(seed + draw)
            images = [_drawn(bank, classes, size, seed, draw) for classes in (transfer.source, transfer.target)]
            train = [data.embeddings[part[:, : wanted.shot].to(data.device)] for part in images]  # (C, shot, D)
            test = torch.stack([data.embeddings[part[:, wanted.shot :].to(data.device)] for part in images])
            for name, rows in _training(learner, bank, train, images[0][:, : wanted.shot], texts, transfer.words[1]):
                right.setdefault(name, []).append(_share_right(rows, test))
    cosines = _cosines(data, transfer, texts)
    return Adapted({name: np.stack(parts, 1) for name, parts in right.items()}, cosines)


def _texts(learner: CLIP, data: EmbeddedBank, transfer: Transfer) -> Texts:
    embedded = data.text_embeddings
    plain = learner.embed_texts(transfer.things).float()
    return Texts(plain, embedded[transfer.source.to(data.device)], embedded[transfer.target.to(data.device)])


def _training(
    learner: CLIP, bank: ImageBank, train: list[Tensor], images: Tensor, texts: Texts, word: str
) -> Iterator[tuple[str, Tensor]]:
    """The embeddings (C, M, D) that the probe of each adaptation learns from, after its name.

    train: those of the training images (C, shot, D) of both domains; images (C, shot): the numbers of the source images
    """
    source, target = train
    classes, shot = source.shape[:2]
    labels = torch.arange(classes, device=source.device).repeat_interleave(shot)
    scale = float(learner.scale() if isinstance(learner, ImageTextHead) else learner.tau())

    def with_moved(references: Tensor, alignment: float) -> Tensor:
        moved = lads.moved(source.flatten(0, 1), labels, texts.directions, references, scale, alignment)
        return torch.cat([source, moved.unflatten(0, (classes, shot))], 1)

    def with_shifted(direction: Tensor) -> Tensor:
        return torch.cat([source, functional.normalize(source + direction, dim=2)], 1)

    yield NONE, source
    yield "text direction", with_shifted(texts.directions.mean(0))
    yield "LADS", with_moved(texts.plain, 0.5)
    yield "LADS, source images", with_moved(functional.normalize(source.mean(1), dim=1), _ALIGNMENT)
    if poda.has_styles(learner):
        pixels = bank.batch(images.flatten().to(source.device))
        styles = poda.mined(learner, pixels[::shot], learner.embed_texts((word,))[0])
        chosen = torch.randint(classes, (len(pixels),), device=source.device)
        restyled = poda.restyled(learner, pixels, styles.of(chosen)).float().unflatten(0, (classes, shot))
        yield "PODA", torch.cat([source, restyled], 1)
    yield "image direction", with_shifted(target.mean((0, 1)) - source.mean((0, 1)))
    yield CEILING, torch.cat([source, target], 1)


def _share_right(train: Tensor, test: Tensor) -> np.ndarray:
    """The share of right answers of each class in each domain, (2, C), by a linear probe (logistic regression).

    train (C, M, D), test (2, C, query, D): embeddings of length one
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and few commands need it

    classes, count = train.shape[:2]
    probe = LogisticRegression(C=_COST, max_iter=1000)
    probe.fit(exact(train.flatten(0, 1)).cpu().numpy(), np.arange(classes).repeat(count))
    answers = probe.predict(exact(test.flatten(0, 2)).cpu().numpy()).reshape(test.shape[:3])
    return (answers == np.arange(classes)[:, None]).mean(2)


def _drawn(bank: ImageBank, classes: Tensor, count: int, seed: int, draw: int) -> Tensor:
    """`count` images of each of `classes` (C,), drawn without repeats: numbers (C, count)."""
    keys = stream(seed, torch.arange(len(bank)) + draw * len(bank))
    ends = bank.offsets.tolist()
    parts = [ends[one] + keys[ends[one] : ends[one + 1]].argsort()[:count] for one in classes.tolist()]
    return torch.stack(parts)


def _cosines(data: EmbeddedBank, transfer: Transfer, texts: Texts) -> np.ndarray:
    """`cosines` of Adapted."""
    ends = data.bank.offsets.tolist()

    def means(classes: Tensor) -> Tensor:
        return torch.stack([data.embeddings[ends[one] : ends[one + 1]].mean(0) for one in classes.tolist()])

    images = means(transfer.target) - means(transfer.source)
    return exact(functional.cosine_similarity(images, texts.directions)).cpu().numpy()


def _over(values: np.ndarray) -> Estimate:
    """The mean of values (draws, C) with the interval over classes."""
    draws, classes = values.shape
    return over_classes(values.flatten(), np.tile(np.arange(classes), draws)[:, None], np.arange(classes))


def _ratio(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Values whose mean is mean(parts) / mean(whole), and whose spread gives its interval by the delta method."""
    share = parts.mean() / whole.mean()
    return share + (parts - share * whole) / whole.mean()


class DomainProtocol(Protocol):
    """Every transfer between the domains of the test classes; domain.npz keeps the shares of right answers."""

    name = "domain"
    arrays = "domain.npz"
    columns = (
        *(*FIRST, "transfer", "adaptation", "classes", "shot", "query", "draws"),
        *with_widths(*_HEADINGS, "cosine"),
        *LAST,
    )

    def check(self, wanted: Evaluation, banks: Mapping[str, ImageBank]) -> None:
        super().check(wanted, banks)
        if isinstance(banks["test"], FeatureBank):
            raise InputError(f"{banks['test'].name} holds features, and domain needs images: leave out domain")
        transfers(banks["test"], wanted.domain.shot + wanted.domain.query)

    def measure(self, task: Task) -> tuple[list[Row], dict[str, np.ndarray]]:
        wanted, data = task.wanted.domain, task.data["test"]
        learner = _image_text(task.learner)
        rows, arrays = [], {}
        for transfer in transfers(data.bank, wanted.shot + wanted.query):
            found = adapt(learner, data, transfer, wanted, task.wanted.seed)
            about = {"transfer": transfer.name, "classes": len(transfer.things), **wanted.model_dump()}
            for name, right in found.right.items():
                rows.append({**about, "adaptation": name, **in_columns(found.measures(name))})
                arrays[f"{task.columns['model']}/{transfer.name}/{name}"] = right
        return rows, arrays

    def sheets(self, rows: pd.DataFrame, arrays: Arrays) -> list[Sheet]:
        return with_seeds(rows, _NOTE, _sheets)

    def unlike(self, rows: pd.DataFrame, arrays: Arrays) -> list[str]:
        return [_unlike(row, arrays) for _, row in rows.iterrows()]


PROTOCOL = DomainProtocol()


def _image_text(learner: Learner) -> CLIP:
    if not isinstance(learner, CLIP):
        raise NotComparable(f"{learner.name} has no embeddings of texts, which domain needs: take clip")
    return learner


def _unlike(row: pd.Series, arrays: Arrays) -> str:
    """Why a row is not the mean of its classes and draws, '' if it is."""
    cell = f"{row['adaptation']}, {row['transfer']}, of {row['model']}"
    values = arrays.get(f"{row['model']}/{row['transfer']}/{row['adaptation']}")
    if values is None:
        return f"domain.npz lacks {cell}"
    if values.shape != (2, row["draws"], row["classes"]) or values.dtype.kind != "f":
        return f"domain.npz holds {values.shape} of {values.dtype} for {cell}"
    for name, mean in zip(("source_accuracy", "target_accuracy"), 100 * values.mean((1, 2))):
        if not abs(mean - row[name]) <= _ROUNDED:
            return f"domain.csv says {name} = {row[name]} of {cell}, but the mean of its parts is {mean:.4f}"
    return ""


def _sheets(rows: pd.DataFrame, seeds: str, note: str) -> list[Sheet]:
    """One table for each transfer: the learners with each adaptation, and the measures."""
    rows = rows.assign(label=labels(rows) + ", " + rows["adaptation"])
    rows = rows.sort_values("adaptation", key=lambda names: names.map(_ORDER.index), kind="stable")
    made = []
    for name, own in rows.groupby("transfer", sort=False):
        row, own = own.iloc[0], own.set_index("label")
        text = (
            f"{images_text(rows)}, {name}: percent, {row['classes']} classes, {counted(row['shot'], 'image')} each to"
            f" train on and {row['query']} to test, {row['draws']} draws{seeds}; the direction of the texts has the"
            f" cosine {row['cosine']:.2f} ± {row['cosine_ci95']:.2f} to that of the images"
        )
        cells = {
            heading: (own[column].dropna(), own[f"{column}_ci95"][own[column].notna()])
            for column, heading in _HEADINGS.items()
        }
        sheet = sheet_of(f"Another domain in words, {name}", text, own.index, cells, note)
        made.append(sheet._replace(best=sheet.best & False, note=note))  # the ceiling is no competitor
    return made
