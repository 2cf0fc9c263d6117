"""Each learner's scores against the procedure of its source, written plainly: one episode, one image, one class a time.

A learner whose docstring states a difference from its source is left out, unless the difference cannot matter.
"""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import toy_bank
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from episodes import EpisodeSampler
from episodes.draws import stream
from fewshot import evaluation
from fewshot.backbones import make_backbone
from fewshot.draws import shuffled
from fewshot.embedding import EmbeddedBank
from fewshot.learners.base import scores_of
from fewshot.learners.registry import LEARNERS
from fewshot.small_batches import fresh, in_order

SIZE = 64  # of the embeddings


def make(name: str, variant: str = "", **options):
    torch.manual_seed(0)
    return LEARNERS[name](make_backbone("conv4", 1, 16), 12, variant, **options).double().eval()


def episodes_of(way: int, shot: int, episodes: int = 3, query: int = 2) -> tuple[Tensor, Tensor]:
    """Support (E, N, K, D) and query (E, Q, D), classes that overlap, positive as after a ReLU."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(episodes, way, 1, SIZE, generator=generator, dtype=torch.float64)
    noise = torch.randn(episodes, way, shot + query, SIZE, generator=generator, dtype=torch.float64)
    images = functional.relu(0.5 + centres + noise)
    return images[:, :, :shot], images[:, :, shot:].flatten(1, 2)


# ---- Chen et al. 2019: CloserLookFewShot, methods/baselinefinetune.py and distLinear of backbone.py


class CosineLayer(nn.Module):
    """Their distLinear, of 200 classes or fewer."""

    def __init__(self, size: int, way: int) -> None:
        super().__init__()
        self.L = nn.utils.parametrizations.weight_norm(nn.Linear(size, way, bias=False), dim=0)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.L(x / x.norm(dim=1, keepdim=True))


def chen(layer: nn.Module, support: Tensor, query: Tensor, orders: list[Tensor]) -> Tensor:
    """Their loop, with the given shuffles: scores (Q, N) from support (N, K, D) and query (Q, D)."""
    way, shot, _ = support.shape
    images, labels = support.flatten(0, 1), torch.arange(way).repeat_interleave(shot)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
    for order in orders:
        for i in range(0, len(images), 4):
            optimizer.zero_grad()
            selected = order[i : min(i + 4, len(images))]
            functional.cross_entropy(layer(images[selected]), labels[selected]).backward()
            optimizer.step()
    return layer(query).detach()


def of_chen(learner, support: Tensor, query: Tensor, keys: Tensor) -> Tensor:
    """The scores of their loop for each episode, with the initial weights and shuffles that the episode's key draws."""
    ordered, _, places = in_order(support)
    way, shot = support.shape[1:3]
    starts, found = fresh(keys, way, SIZE), []
    orders = [shuffled(keys, 1 + epoch, way * shot) for epoch in range(100)]
    for e in range(len(support)):
        layer = nn.Linear(SIZE, way) if learner.name == "baseline" else CosineLayer(SIZE, way)
        layer = layer.double()
        with torch.no_grad():
            if learner.name == "baseline":
                layer.weight.copy_(starts[e, :, :-1])
                layer.bias.copy_(starts[e, :, -1])
            else:
                layer.L.weight = starts[e, :, :-1]
        scores = chen(layer, ordered[e], query[e], [order[e] for order in orders])
        found.append(scores[:, places[e]])
    return torch.stack(found)


# ---- the others: from the learner, support (N, K, D) and query (Q, D) of one episode to scores (Q, N)


def each(score):
    """The scores of all episodes, from a function of one query and the support images (K, D) of one class."""

    def scores(learner, support: Tensor, query: Tensor, keys: Tensor) -> Tensor:
        rows = [
            [[score(learner, q, s).detach() for s in classes] for q in asked] for classes, asked in zip(support, query)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    return scores


def whole(score):
    """The scores of all episodes, from a function of one episode."""
    return lambda learner, support, query, keys: torch.stack([score(learner, *one) for one in zip(support, query)])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def snell(learner, q, s):
    return -(q - s.mean(0)).square().sum()


def qi(learner, q, s):
    return learner.tau * cosine(q, torch.stack([unit(one) for one in s]).mean(0))


def wang(learner, q, s):
    centred = [unit(one - learner.mean) for one in s]
    return -(unit(q - learner.mean) - torch.stack(centred).mean(0)).square().sum()


def hadsell(learner, q, s):
    return -torch.stack([(q - one).square().sum() for one in s]).mean()


def koch(learner, q, s):
    return torch.stack([((q - one).abs() @ learner.alpha + learner.bias).sigmoid() for one in s]).mean()


def goldberger(learner, q, s):
    return torch.stack([(-(q - one).square().sum()).exp() for one in s]).sum().log()


def vinyals_pixels(learner, q, s):
    return -min((q - one).square().sum() for one in s)


def mean_direction(learner, q, s):
    return cosine(q, s.mean(0))


def gidaris(learner, q, s):
    """Equations 5 to 7, with the normalisations of their code."""
    base = [unit(w) for w in learner.weights]
    attended = []
    for one in s:
        asked = unit(learner.phi_query.weight @ unit(one) + learner.phi_query.bias)
        attention = torch.stack([learner.gamma * cosine(asked, key) for key in learner.keys]).softmax(0)
        attended.append(sum(a * w for a, w in zip(attention, base)))
    average = torch.stack([unit(one) for one in s]).mean(0)
    return learner.tau * cosine(q, learner.phi_avg * average + learner.phi_att * torch.stack(attended).mean(0))


def sung(learner, q, s):
    """A network of two fully connected layers sees class and query side by side."""
    weight = torch.cat([learner.of_class.weight, learner.of_query.weight], 1)
    hidden = functional.relu(weight @ torch.cat([s.mean(0), q]) + learner.of_class.bias)
    return learner.output(hidden)


def vinyals(learner, support, query):
    """Equation 1, with the scale of the cosine that the docstring tells."""
    rows = []
    for q in query:
        near = torch.stack([torch.stack([10 * cosine(q, one) for one in s]) for s in support])
        rows.append(near.flatten().softmax(0).view_as(near).sum(1).log())
    return torch.stack(rows)


def bertinetto(learner, support, query):
    """W = (X^T X + lambda I)^-1 X^T Y, equation 4."""
    way, shot, size = support.shape
    x, y = support.flatten(0, 1), torch.eye(way, dtype=support.dtype).repeat_interleave(shot, 0)
    weights = torch.linalg.inv(x.T @ x + learner.log_penalty.exp() * torch.eye(size)) @ x.T @ y
    return learner.scale * query @ weights


def lee(learner, support, query):
    """Their dual problem, by projected gradients: the constraints are those of a simplex in other coordinates."""
    way, shot, _ = support.shape
    x, y = support.flatten(0, 1), torch.eye(way, dtype=support.dtype).repeat_interleave(shot, 0)
    a, rate = torch.zeros_like(y), 1 / torch.linalg.matrix_norm(x @ x.T, 2)
    for _ in range(2000):
        point = (0.1 * y - (a - rate * (x @ x.T @ a - y))) / 0.1  # on the simplex: not negative, a row sums to 1
        falling = point.sort(1, descending=True).values
        shifts = (falling.cumsum(1) - 1) / torch.arange(1, way + 1)
        shift = shifts.gather(1, (falling > shifts).sum(1, keepdim=True) - 1)
        a = 0.1 * y - 0.1 * functional.relu(point - shift)
    return learner.scale * query @ (x.T @ a)


def tian(learner, support, query):
    way, shot, _ = support.shape
    classifier = LogisticRegression(C=1.0, max_iter=1000, random_state=0)
    classifier.fit(support.flatten(0, 1).numpy(), np.arange(way).repeat(shot))
    return torch.from_numpy(classifier.decision_function(query.numpy()))


def raghu(learner, support, query):
    """Inner steps on the head alone, here from zero, on the loss summed over classes."""
    way, shot, size = support.shape
    head, labels = torch.zeros(way, size, dtype=support.dtype), torch.arange(way).repeat_interleave(shot)
    for _ in range(learner.test_steps):
        head.requires_grad_()
        (slope,) = torch.autograd.grad(way * functional.cross_entropy(support.flatten(0, 1) @ head.T, labels), head)
        head = (head - learner.head_rate * slope).detach()
    return query @ head.T


SOURCES = {
    "baseline": of_chen,
    "baseline++": of_chen,
    "prototypical": each(snell),
    "imprinted": each(qi),
    "dynamic": each(gidaris),
    "simpleshot": each(wang),
    "siamese": each(hadsell),
    "siamese:koch": each(koch),
    "nca": each(goldberger),
    "nearest-pixel": each(vinyals_pixels),
    "npair": each(mean_direction),
    "exemplar": each(mean_direction),
    "triplet": each(hadsell),
    "histogram": each(mean_direction),
    "metric": each(mean_direction),
    "relation": each(sung),
    "matching": whole(vinyals),
    "ridge": whole(bertinetto),
    "svm": whole(lee),
    "sklearn": whole(tian),
    "anil": whole(raghu),
}
TRANSDUCTIVE = (
    *("soft-kmeans", "bd-cspn", "laplacianshot", "label-propagation", "query-clustering", "tim", "pt-map"),
    "transductive-finetuning",
)
ELSEWHERE = {
    "maml": "test_maml.py: it works on images",
    "clip": "test_clip.py: it works on names",
    "openclip": "test_openclip.py: it works on names",
    "clip-words": "test_clip_words.py: it works on names",
    "devise": "test_devise.py: it works on names",
    "am3": "test_am3.py: it works on names",
    "coop": "test_coop.py: it works on names",
    **dict.fromkeys(["tip-adapter", "clip-adapter", "lp++", "clap"], "test_image_text_heads.py: they work on names"),
    **dict.fromkeys(["dn4", "frn", "deepemd"], "test_maps.py: they compare feature maps"),
    "aligned": "test_aligned.py: it compares feature maps",
    **dict.fromkeys(["feat", "meta-baseline"], "test_maps.py: beside its loops over equations"),
    **dict.fromkeys(TRANSDUCTIVE, "test_transductive.py: it needs all queries at once"),
}
DIRECTIONS = {"baseline++", "imprinted", "dynamic", "siamese", "exemplar", "triplet", "histogram", "metric", "sklearn"}


def test_every_learner_is_held_against_its_source():
    assert {spec.partition(":")[0] for spec in SOURCES} | ELSEWHERE.keys() == LEARNERS.keys()


@pytest.mark.parametrize(("way", "shot"), [(5, 1), (3, 5)])
@pytest.mark.parametrize("spec", SOURCES)
def test_scores_are_those_of_the_source(spec, way, shot):
    learner = make(*spec.split(":"))
    if spec == "dynamic":  # whose attention starts at nothing
        nn.init.constant_(learner.phi_att, 0.7)
    support, query = episodes_of(way, shot)
    if spec in DIRECTIONS:  # its embeddings have the length one
        support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    keys = stream(5, torch.arange(len(support)))
    expected = SOURCES[spec](learner, support, query, keys).detach()
    found = scores_of(learner, support, query, keys).detach()
    error = {"svm": 0.02, "sklearn": 1e-4}.get(spec, 1e-6)  # both solve by steps
    torch.testing.assert_close(found, expected, rtol=error, atol=error * float(expected.abs().max()))


# ---- what is drawn for an episode


CHEN = pytest.mark.parametrize("name", ["baseline", "baseline++"])


@CHEN
def test_what_is_drawn_depends_on_the_seed_and_the_number_of_an_episode_alone(name, monkeypatch):
    learner, bank = make(name, head_epochs=5).float(), toy_bank(classes=8, images=6, size=16)
    sampler = EpisodeSampler(bank, 4, 2, 3, seed=7)
    data = EmbeddedBank(learner, bank)
    together = learner.episode_scores(data, sampler.episodes(0, 12))
    alone = torch.cat([learner.episode_scores(data, sampler.episodes(number, 1)) for number in range(11, -1, -1)])
    torch.testing.assert_close(together, alone.flip(0), rtol=1e-4, atol=1e-5)
    expected = evaluation.run_episodes(learner, data, sampler, 12).values
    monkeypatch.setattr(evaluation, "_CHUNK", {"cpu": 100})
    assert (evaluation.run_episodes(learner, data, sampler, 12).values == expected).all()
    same = dataclasses.replace(sampler.episodes(0, 12), keys=EpisodeSampler(bank, 4, 2, 3, seed=8).episodes(0, 12).keys)
    assert not torch.allclose(learner.episode_scores(data, same), together, rtol=1e-3, atol=1e-4)


@CHEN
def test_what_is_drawn_falls_to_classes_and_images_however_they_come(name):
    learner, (support, query) = make(name, head_epochs=5), episodes_of(4, 3)
    keys, order = stream(0, torch.arange(3)), torch.tensor([2, 0, 3, 1])
    expected = learner.scores(support, query, keys)
    torch.testing.assert_close(learner.scores(support[:, order], query, keys), expected[:, :, order])
    torch.testing.assert_close(learner.scores(support.flip(2), query, keys), expected)


@CHEN
def test_twin_episodes_of_other_numbers_are_fitted_apart(name):
    learner, (support, query) = make(name, head_epochs=5), episodes_of(4, 1, episodes=1)
    first, second = learner.scores(support.repeat(2, 1, 1, 1), query.repeat(2, 1, 1), stream(0, torch.arange(2)))
    assert (first - second).abs().max() > 1e-3
