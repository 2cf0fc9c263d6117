"""Class-incremental sessions: which novel classes each session adds, and their images, drawn or from a list."""

from pathlib import Path

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.datasets.listings import lines_of
from episodes.errors import InputError, counted, nearest_name
from episodes.sampler import Episodes, EpisodeSampler

COLUMNS = ("session", "class")


def session_sampler(
    bank: ImageBank, sessions: int, way: int, shot: int, query: int, seed: int, order: str = ""
) -> EpisodeSampler:
    """Episodes of sessions * way classes, one episode a draw: of its classes, in order, each session adds `way`.

    order: '' if each draw has classes in an order of its own; else a csv file that lists the classes of each session
    with the columns session and class, so that draws differ in their images alone. InputError if the bank cannot fill
    such episodes, or the file does not list `sessions` sessions of `way` classes of the bank.
    """
    if not order:
        return EpisodeSampler(bank, sessions * way, shot, query, seed)
    return _Ordered(bank, _listed(Path(order), bank, (sessions, way), (shot, query)), shot, query, seed)


def listed_order(order: str) -> list[list[str]]:
    """What the csv file `order` says: session and class of each line. InputError if the file cannot be read."""
    return [cells for _, cells in lines_of(Path(order), COLUMNS)]


class _Ordered(EpisodeSampler):
    """Episodes of `classes` (N,) of the bank, always in this order; images are drawn as in EpisodeSampler."""

    def __init__(self, bank: ImageBank, classes: Tensor, shot: int, query: int, seed: int) -> None:
        super().__init__(bank.sizes[classes.to(bank.sizes.device)], len(classes), shot, query, seed)
        self._chosen = classes
        self._firsts = bank.offsets[:-1].cpu()[classes]

    def episodes(self, start: int, count: int, device: torch.device | str | None = None) -> Episodes:
        drawn = super().episodes(start, count, device)  # all classes are in each episode, in an order of its own
        places = drawn.classes.argsort(1)
        device = places.device
        moved = (self._firsts - self._offsets[:-1].cpu()).to(device)[:, None]  # from the listed classes to the bank
        return Episodes(
            classes=self._chosen.to(device).expand(count, -1),
            support=drawn.support.take_along_dim(places[..., None], 1) + moved,
            query=drawn.query.take_along_dim(places[..., None], 1) + moved,
            keys=drawn.keys,
            numbers=drawn.numbers,
        )


def _listed(path: Path, bank: ImageBank, size: tuple[int, int], images: tuple[int, int]) -> Tensor:
    """The classes in `path`, session after session, as positions in the bank (sessions * way,).

    size: sessions and way; images: shot and query
    """
    (sessions, way), (shot, query) = size, images
    positions = {name: position for position, name in enumerate(bank.class_names)}
    found: dict[int, list[int]] = {session: [] for session in range(1, sessions + 1)}
    seen: set[str] = set()
    for line, (session, name) in lines_of(path, COLUMNS):
        where = f"line {line} of {path}"
        if session not in map(str, found):
            raise InputError(f"{where} has the session '{session}': write a whole number from 1 to {sessions}")
        if name not in positions:
            raise nearest_name(f"class of {bank.name} in {where}:", name, bank.class_names)
        if name in seen:
            raise InputError(f"{where} names the class '{name}' for the second time: leave one line out")
        if shot + query > int(bank.sizes[positions[name]]):
            raise InputError(
                f"{where} names the class '{name}' of {counted(int(bank.sizes[positions[name]]), 'image')}:"
                f" {counted(shot, 'shot')} and {counted(query, 'query')} need {shot + query} images a class"
            )
        seen.add(name)
        found[int(session)].append(positions[name])
    for number, classes in found.items():
        if len(classes) != way:
            raise InputError(
                f"{path} lists {counted(len(classes), 'class')} of session {number}: list {way}, or change way"
            )
    return torch.tensor([position for classes in found.values() for position in classes])
