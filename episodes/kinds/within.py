"""Episodes whose classes all belong to one group of the bank: an alphabet, a superclass, a genus."""

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.draws import below, draw, slot_words
from episodes.errors import InputError
from episodes.kinds.composition import ComposedSampler, Composition, composed
from episodes.sampler import EpisodeSampler


class WithinSampler(ComposedSampler):
    """A group, uniform among those of at least `way` classes, and `way` of its classes; images as in uniform episodes.

    Raises InputError if the bank has no groups, or if all groups have fewer classes.
    """

    def __init__(self, bank: ImageBank, way: int, shot: int, query: int = 15, seed: int = 0) -> None:
        EpisodeSampler(bank, way, shot, query, seed)
        groups: dict[str, list[int]] = {}
        for number, name in enumerate(bank.group_names):
            groups.setdefault(name, []).append(number)
        if not any(groups):
            raise InputError(f"{bank.name} has no groups of classes: draw its episodes from all classes")
        largest = max(map(len, groups.values()))
        large = [members for members in groups.values() if len(members) >= way]
        if not large:
            raise InputError(
                f"no group of {bank.name} has {way} classes, the largest has {largest}: ask for fewer ways with --way"
            )
        super().__init__(bank, way, shot, way * query, seed)
        self.query, self._largest_group = query, largest
        self._groups = torch.tensor(
            [members + [0] * (largest - len(members)) for members in large]
        )  # (groups, largest)
        self._counts = torch.tensor([len(members) for members in large])

    def compose(self, keys: Tensor) -> Composition:
        groups = below(slot_words(keys, -1, 1)[0], len(self._groups))
        members = draw(keys, 0, self._counts[groups], self._largest_group, self.way).long().T
        return composed(self._groups[groups[:, None], members], self.shot, self.query)
