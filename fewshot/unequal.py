"""Episodes whose classes have different numbers of support images, for every learner."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from episodes import Episodes
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import checked_scores
from fewshot.learners.base import Learner, takes

_DRAWS = 8  # episodes of equal shots that are averaged at most
_WATCHED = 64  # support images that serve as queries when the suite looks how a learner scores
_SAME = 1e-4  # of the largest score: the rounding of float32 stays below


def unequal_scores(
    learner: Learner,
    data: EmbeddedBank,
    support: Sequence[Tensor],
    query: Tensor,
    keys: Tensor | None = None,
    classes: Tensor | None = None,
) -> Tensor:
    """Scores (E, Q, N) of E episodes, from the images of each class: N tensors (E, K_c), and queries (E, Q).

    keys (E,): see Episodes; classes (E, N): the classes of each episode in the bank, by default 0 .. N - 1. Images are
    numbered as in `data.bank`.

    Equal shots are one call of `learner.episode_scores`, as in an evaluation. So are unequal shots if the learner takes
    a mask (see Learner.scores), as every learner of the suite does: each image then counts once. If the learner takes
    no mask, `independent` watches its scores, and they are

    exact   if the score of a class depends on the query and on the images of that class alone: each class is scored in
            an episode in which every class has its shots
    a mean  otherwise: each class gets as many images as the largest one, by repeating its own in turn; if the numbers
            do not divide each other, over up to 8 episodes that repeat other images. A head that is fitted to each
            image once has other scores
    """
    shots = [images.shape[1] for images in support]
    if classes is None:
        classes = torch.arange(len(shots), device=query.device).expand(len(query), -1)

    def scores(images: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        episodes = Episodes(classes, torch.stack(list(images), 1), query[:, None], keys, mask)
        return checked_scores(learner, data, episodes)

    largest = max(shots)
    if len(set(shots)) == 1:
        return scores(support)
    if takes(learner, "mask"):
        counts = torch.tensor(shots, device=query.device)[:, None] > torch.arange(largest, device=query.device)
        return scores([_in_turn(images, largest) for images in support], counts.expand(len(query), -1, -1))
    if independent(learner, data, support, keys, classes):
        by_shot = {shot: scores([_in_turn(images, shot) for images in support]) for shot in sorted(set(shots))}
        return torch.stack([by_shot[shot][:, :, place] for place, shot in enumerate(shots)], 2)
    rounds = math.lcm(*(shot // math.gcd(shot, largest) for shot in shots))  # after which all images count alike
    starts = [draw * largest for draw in range(min(rounds, _DRAWS))]
    return torch.stack([scores([_in_turn(images, largest, start) for images in support]) for start in starts]).mean(0)


def independent(
    learner: Learner, data: EmbeddedBank, support: Sequence[Tensor], keys: Tensor | None, classes: Tensor
) -> bool:
    """Whether the score of a class depends on no image of another class: the first episode is scored twice, the second
    time with the images of its first class in the place of all images."""
    shot = min(images.shape[1] for images in support)
    own = torch.stack([images[:1, :shot] for images in support], 1)  # (1, N, K)
    query = torch.cat([images[0] for images in support])[None, None, :_WATCHED]
    keys = None if keys is None else keys[:1]
    whole, alone = (
        checked_scores(learner, data, Episodes(classes[:1], images, query, keys))[..., 0]
        for images in (own, own[:, :1].expand_as(own))
    )
    return bool((whole - alone).abs().max() <= _SAME * whole.abs().max().clamp_min(1e-12))


def _in_turn(images: Tensor, count: int, start: int = 0) -> Tensor:
    """`count` of the images (E, K) in turn, from number `start` on and again from the first: (E, count)."""
    return images[:, torch.arange(start, start + count, device=images.device) % images.shape[1]]
