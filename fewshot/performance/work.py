"""The measurements: each function does one contender's work in a fresh process, and returns its samples."""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from episodes import ClassBatches, EpisodeSampler, ImageBank
from episodes.batches import batches_from
from fewshot.backbones import Backbone, make_backbone
from fewshot.config import Training, load_config
from fewshot.devices import choose_device, placed, prepare, training_precision
from fewshot.embedding import EmbeddedBank, computing_in
from fewshot.evaluation import evaluate, run_episodes
from fewshot.learners import Learner, find_learner
from fewshot.learners.prototypical import Prototypical
from fewshot.models import ModelSpec
from fewshot.performance import peers
from fewshot.performance.generated import CHARACTERS, Shape, generated_bank
from fewshot.recording import gradients_of
from fewshot.training import clamped, enter_stage

QUERY = 15


class Effort(NamedTuple):
    """How long a measurement goes on: each of `repeats` samples for `seconds` at least.

    A measurement that has taken longer than `longest` seconds is not repeated.
    """

    seconds: float = 0.3
    repeats: int = 5
    longest: float = 12.0


Found = dict[str, Any]  # samples: the measured values; and what else there is to say


def rates(work: Callable[[], int], effort: Effort) -> list[float]:
    """Samples of the amount of `work` done in a second; `work` returns its amount, and a first call is not counted."""
    work()
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < effort.repeats and (not samples or time.perf_counter() - began < effort.longest):
        start, done = time.perf_counter(), 0
        while not done or time.perf_counter() - start < effort.seconds:
            done += work()
        samples.append(done / (time.perf_counter() - start))
    return samples


def _iterated(loader: Iterable[object], count: int) -> Callable[[], int]:
    """Work that takes the next `count` elements of the endless `loader` at each call."""
    endless = itertools.chain.from_iterable(itertools.repeat(loader))

    def work() -> int:
        for _ in range(count):
            next(endless)
        return count

    return work


_ENDLESS = 10**9  # episodes of a peer's sampler


def sample_indices(contender: str, shape: Shape, way: int, shot: int, effort: Effort) -> Found:
    """Episodes a second as indices."""
    if contender == "fewshot":
        sampler, numbers = EpisodeSampler([shape.images] * shape.classes, way, shot, QUERY), itertools.count()
        size = 100_000 // way  # episodes at once
        return {"samples": rates(lambda: len(sampler.episodes(next(numbers) * size, size)), effort)}
    labels = peers.OnlyLabels(shape)
    if contender == "learn2learn":
        sample = peers.learn2learn_tasks(labels, way, shot, QUERY, load=False)
        return {"samples": rates(_iterated(iter(sample, None), 20), effort)}
    if contender == "easyfsl":
        peer = peers.easyfsl_sampler(labels, way, shot, QUERY, _ENDLESS)
    else:
        peer = peers.CategoriesSampler(labels.labels, _ENDLESS, way, shot + QUERY)
    return {"samples": rates(_iterated(peer, 20), effort)}


def sample_images(contender: str, shape: Shape, way: int, shot: int, effort: Effort) -> Found:
    """Episodes a second as image tensors that a network takes, support and query."""
    bank = generated_bank(shape)
    if contender == "fewshot":
        prepare(torch.device("cpu"))
        sampler, numbers = EpisodeSampler(bank, way, shot, QUERY), itertools.count()
        size = max(1, 1000 // (way * (shot + QUERY)))  # episodes at once

        def work() -> int:
            episodes = sampler.episodes(next(numbers) * size, size)
            bank.batch(episodes.support.flatten()), bank.batch(episodes.query.flatten())
            return size

        return {"samples": rates(work, effort)}
    pictures = peers.Pictures.of(bank)
    if contender == "learn2learn":
        sample = peers.learn2learn_tasks(pictures, way, shot, QUERY, load=True)
        return {"samples": rates(_iterated(iter(sample, None), 1), effort)}
    if contender == "easyfsl":
        peer = peers.easyfsl_sampler(pictures, way, shot, QUERY, _ENDLESS)
        loader = DataLoader(pictures, batch_sampler=peer, collate_fn=peer.episodic_collate_fn)
    else:
        peer = peers.CategoriesSampler(pictures.labels, _ENDLESS, way, shot + QUERY)
        loader = DataLoader(pictures, batch_sampler=peer)
    return {"samples": rates(_iterated(loader, 1), effort)}


_ACCURACIES = {"easyfsl": peers.easyfsl_accuracies, "plain loop": peers.plain_accuracies}


def evaluate_images(
    contender: str, backbone: str, shape: Shape, episodes: int, embedded: int, checked: int, effort: Effort
) -> Found:
    """Seconds for `episodes` 5-way 1-shot episodes to a finished interval, embedding included.

    embedded   images of each class that are embedded; if these are not all, the others are assumed to take as long per
               image, and the episodes are scored on made-up embeddings of all images
    checked    episodes in which a peer must find our accuracies: `agreement` is the largest difference
    """
    learner = _learner(backbone, shape)
    if contender == "fewshot":
        return _evaluate_ours(learner, shape, episodes, embedded, effort)
    bank = generated_bank(shape)
    network, pictures = peers.plain_network(learner.backbone, shape.channels), peers.Pictures.of(bank)
    endless = _ACCURACIES[contender](network, pictures, None, 5, 1, QUERY, _ENDLESS)
    next(endless)
    samples = [
        1 / rate for rate in rates(_iterated(endless, 1), effort._replace(seconds=effort.longest / 3, repeats=3))
    ]
    return {
        "samples": [episodes * seconds for seconds in samples],
        "counted": f"at the rate of {effort.longest:g} s",
        "agreement": _agreement(contender, learner, shape, checked),
    }


def _evaluate_ours(learner: Learner, shape: Shape, episodes: int, embedded: int, effort: Effort) -> Found:
    if embedded >= shape.images:
        bank = generated_bank(shape)
        samples = _seconds(lambda: evaluate(learner, bank, 5, 1, QUERY, episodes, device="cpu").percent, effort)
        return {"samples": samples, "counted": f"{episodes:,} episodes"}
    prepare(torch.device("cpu"))
    bank = generated_bank(dataclasses.replace(shape, images=embedded))
    vectors = torch.randn(shape.total, learner.backbone.embedding_size)
    sampler = EpisodeSampler([shape.images] * shape.classes, 5, 1, QUERY)
    scoring = statistics.median(
        _seconds(lambda: run_episodes(learner, _Cached(vectors), sampler, episodes).percent, effort)
    )
    embedding = _seconds(lambda: EmbeddedBank(learner, bank).embeddings, effort)
    return {
        "samples": [seconds / len(bank) * shape.total + scoring for seconds in embedding],
        "counted": f"{episodes:,} episodes, embedding at the rate of {len(bank):,} images of {shape.total:,}",
    }


def _agreement(contender: str, learner: Learner, shape: Shape, episodes: int) -> float:
    """The largest difference of an episode's accuracy between a peer and us, on a small bank and the same episodes."""
    bank = generated_bank(dataclasses.replace(shape, classes=8, images=1 + QUERY))
    drawn = EpisodeSampler(bank, 5, 1, QUERY).episodes(0, episodes)
    listed = torch.cat([drawn.support, drawn.query], 2).flatten(1).tolist()
    network = peers.plain_network(learner.backbone, shape.channels)
    theirs = list(_ACCURACIES[contender](network, peers.Pictures.of(bank), listed, 5, 1, QUERY, episodes))
    ours = evaluate(learner, bank, 5, 1, QUERY, episodes, device="cpu").values
    return max(abs(a - b) for a, b in zip(ours.tolist(), theirs, strict=True))


def evaluate_cached(contender: str, shape: Shape, size: int, episodes: int, effort: Effort) -> Found:
    """Seconds for `episodes` 5-way 1-shot episodes from cached embeddings of `size` numbers."""
    vectors = torch.randn(shape.total, size, generator=torch.Generator().manual_seed(0))
    if contender == "fewshot":
        prepare(torch.device("cpu"))
        learner = Prototypical(Backbone(nn.Identity(), size), 5)
        sampler = EpisodeSampler([shape.images] * shape.classes, 5, 1, QUERY)
        run_episodes(learner, _Cached(vectors), sampler, 2)
        samples = _seconds(
            lambda: run_episodes(learner, _Cached(vectors), sampler, episodes).percent, effort, warm=False
        )
        return {"samples": samples, "counted": f"{episodes:,} episodes"}
    pictures = peers.Pictures(vectors, peers.OnlyLabels(shape).labels)
    endless = _ACCURACIES[contender](nn.Identity(), pictures, None, 5, 1, QUERY, _ENDLESS)
    samples = rates(_iterated(endless, 20), effort)
    return {
        "samples": [episodes / rate for rate in samples],
        "counted": f"at the rate of {effort.repeats * effort.seconds:g} s",
    }


class _Cached(EmbeddedBank):
    """A bank whose embeddings are given."""

    def __init__(self, vectors: Tensor) -> None:
        self.embeddings, self.seconds = vectors, 0.0

    device = property(lambda self: self.embeddings.device)


def _learner(backbone: str, shape: Shape) -> Learner:
    torch.manual_seed(0)
    return Prototypical(make_backbone(backbone, shape.channels, shape.size), 5)


def _seconds(work: Callable[[], object], effort: Effort, warm: bool = True) -> list[float]:
    """Seconds of each call of `work`; if `warm`, the first call is not counted, unless the work is too slow for two."""
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < effort.repeats + warm and (not samples or time.perf_counter() - began < effort.longest):
        start = time.perf_counter()
        work()
        samples.append(time.perf_counter() - start)
    return samples[1:] if warm and len(samples) > 1 else samples


def train_steps(contender: str, name: str, backbone: str, shape: Shape, device: str, effort: Effort) -> Found:
    """Images a second of a full training step; of prototypical networks also the losses of the first steps."""
    chosen, bank = choose_device(device), generated_bank(shape)
    if contender == "fewshot":
        prepare(chosen)
    learner, settings = _trainable(name, backbone, bank)
    learner.to(chosen)
    images = len(batches_from(settings.batches))
    steps = _training(learner, settings, placed(bank, chosen), chosen)
    if contender != "fewshot":
        steps = _peer_training(contender, learner, settings, bank, chosen)
    losses: list[Tensor] = []

    def work() -> int:
        losses.append(next(steps).detach())
        if chosen.type == "cuda":
            torch.cuda.synchronize()
        return images

    work()
    samples = rates(work, effort)
    return {"samples": samples, "counted": f"batches of {images}", "losses": torch.stack(losses[:10]).tolist()}


def _trainable(name: str, backbone: str, bank: ImageBank) -> tuple[Learner, Training]:
    """The learner as the quick preset has it, and its settings; but the first images of a class are its support, as in
    other packages, and not each image in turn."""
    config = load_config("quick", [f"{name}@{backbone}"])
    cls, variant = find_learner(name)
    settings = clamped(next(iter(config.learner.values())), cls, variant, bank)
    if "turns" in settings.options:
        settings = settings.model_copy(update={"options": {**settings.options, "turns": False}})
    spec = ModelSpec.of(cls, bank, settings, variant=variant)
    return spec.build(cls), settings


def _training(learner: Learner, settings: Training, bank: ImageBank, device: torch.device) -> Iterator[Tensor]:
    """The losses of training steps without end: those of fewshot.training, without schedule, validation and files."""
    batches = batches_from(settings.batches)
    following = batches.following(bank, 0, 0)
    labels = bank.labels.to(device) if learner.traits.uses_labels else torch.arange(len(bank), device=device)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-3, weight_decay=0, fused=device.type == "cuda")
    learner.batches = batches
    enter_stage(learner, 0.0)
    gradients = gradients_of(learner, device)
    with computing_in(learner.backbone, training_precision("auto", device)):
        while True:
            indices = next(following)
            loss = gradients(bank.batch(indices).to(device), labels[indices.to(device)])
            optimizer.step()
            yield loss


def _peer_training(
    contender: str, learner: Learner, settings: Training, bank: ImageBank, device: torch.device
) -> Iterator[Tensor]:
    """A peer's losses of the same steps on the same batches; the peer gets the indices and loads the images its way."""
    batches, channels = batches_from(settings.batches), bank.images.shape[1]
    assert isinstance(batches, ClassBatches), "the losses of the peers take class after class"
    network = peers.plain_network(learner.backbone, channels)
    if contender == "easyfsl":
        network = peers.imported("easyfsl.methods").PrototypicalNetworks(network)
    elif contender == "learn2learn":
        models = peers.imported("learn2learn").vision.models
        network = nn.Sequential(models.CNN4Backbone(hidden_size=64, channels=channels, max_pool=True), nn.Flatten())
    network.to(device).train()
    loss_of = peers.easyfsl_loss if contender == "easyfsl" else peers.plain_loss
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for images, _ in peers.loader_of(bank, batches):
        loss = loss_of(network, images.to(device), batches.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


def grow(what: str, amount: int, effort: Effort) -> Found:
    """Seconds of our evaluation as one amount grows: episodes, classes, images, or the size of an embedding."""
    prepare(torch.device("cpu"))
    work = _embedding_and_scoring(amount) if what == "images" else _scoring(what, amount)
    return {"samples": _seconds(work, effort, warm=amount < 10**6)}


def _embedding_and_scoring(images: int) -> Callable[[], object]:
    """The evaluation of 1,000 episodes from `images` small images, by a small network."""
    shape = Shape("", images // 20, 20, 1, 16)
    learner, bank = _learner("conv4-32", shape), generated_bank(shape)
    return functools.partial(evaluate, learner, bank, 5, 1, QUERY, 1000, device="cpu")


def _scoring(what: str, amount: int) -> Callable[[], object]:
    """The scoring of episodes from cached embeddings; `amount`: how many episodes, classes, or numbers an embedding."""
    images = CHARACTERS.images
    if what == "episodes":
        classes, size, episodes = CHARACTERS.classes, 64, amount
    elif what == "classes":
        classes, size, episodes = amount, 16, 5_000
    else:
        classes, size, episodes = 200, amount, 1000
    sampler, vectors = EpisodeSampler([images] * classes, 5, 1, QUERY), torch.randn(classes * images, size)
    learner = Prototypical(Backbone(nn.Identity(), size), 5)
    run_episodes(learner, _Cached(vectors), sampler, 500)
    return functools.partial(run_episodes, learner, _Cached(vectors), sampler, episodes)


def profile_work(what: str, shape: Shape, effort: Effort) -> Found:
    """The operations that take the time of training, embedding or scoring, and their distance from the machine's bound.

    flop_rate, traffic_rate   floating point operations a second of a large product of matrices, and bytes a second of
                              copying a large tensor: what the machine can do
    flop, traffic             operations (counted), or bytes that must be moved at least, of one image or episode
    """
    prepare(torch.device("cpu"))
    found = {"flop_rate": _flop_rate(effort), "traffic_rate": _traffic_rate(effort)}
    work, units = _profiled_work(what, shape)
    work()
    with FlopCounterMode(display=False) as counter:
        work()
    seconds = _seconds(work, effort)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    events = [(event.key.removeprefix("aten::"), event.self_cpu_time_total) for event in profiled.key_averages()]
    total = sum(spent for _, spent in events)
    top = sorted(events, key=lambda event: -event[1])[:8]
    # an episode's index tensors, written once, and its images' embeddings, read once and written once
    traffic = (5 + 5 * 16) * 8 + 2 * 80 * 64 * 4 if what == "scoring" else 0
    return {
        **found,
        "samples": [units / one for one in seconds],
        "flop": counter.get_total_flops() / units,
        "traffic": traffic,
        "shares": {name: round(spent / total, 4) for name, spent in top},
    }


def _profiled_work(what: str, shape: Shape) -> tuple[Callable[[], object], int]:
    """The work of one call, 'training', 'embedding' or 'scoring', and how many images or episodes that call takes."""
    bank = generated_bank(shape)
    if what == "training":
        learner, settings = _trainable("prototypical", "conv4", bank)
        steps = _training(learner, settings, bank, torch.device("cpu"))
        return steps.__next__, len(batches_from(settings.batches))
    if what == "embedding":
        learner, count = _learner("conv4", shape).eval(), min(500, len(bank))
        images = bank.batch(torch.arange(count))
        return torch.no_grad()(functools.partial(learner.embed, images)), count
    size, count = 64, 5_000
    vectors = torch.randn(shape.total, size)
    learner, sampler = Prototypical(Backbone(nn.Identity(), size), 5), EpisodeSampler(bank, 5, 1, QUERY)
    return functools.partial(run_episodes, learner, _Cached(vectors), sampler, count), count


def _flop_rate(effort: Effort) -> float:
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    out = torch.empty(1024, 1024)

    def work() -> int:
        torch.mm(a, b, out=out)
        return 2 * 1024**3

    return max(rates(work, effort))


def _traffic_rate(effort: Effort) -> float:
    source = torch.rand(2**24)
    target = torch.empty_like(source)

    def work() -> int:
        target.copy_(source)
        return 2 * source.nbytes

    return max(rates(work, effort))
