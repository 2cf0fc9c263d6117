"""The peers, used as their users do: easyfsl, learn2learn, and the loop that the papers' repositories have.

The peers get decoded images, which favours them over image files. The networks are those of the papers, in PyTorch's
default memory layout; the process settings are PyTorch's defaults.
"""

import contextlib
import copy
import importlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from episodes import ImageBank, InputError
from episodes.batches import Batches
from fewshot.backbones import Backbone
from fewshot.backbones.conv4 import ConvBlock
from fewshot.performance.generated import Shape


def imported(name: str) -> ModuleType:
    """A peer's package; InputError if it is not installed."""
    try:
        # gym, which learn2learn imports, warns that it is outdated
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        how = "pip install 'fewshot[peers]'" if name.startswith("easyfsl") else "the Makefile builds it"
        raise InputError(f"the measurement needs the package {name}: {how}") from error


class Pictures(Dataset):
    """A data set of (image, label), as torchvision's are, from images in memory."""

    def __init__(self, images: Tensor, labels: list[int]) -> None:
        self.images, self.labels = images, labels

    @classmethod
    def of(cls, bank: ImageBank) -> "Pictures":
        return cls(bank.images, bank.labels.tolist())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image.float().div_(255) if image.dtype == torch.uint8 else image, self.labels[index]

    def get_labels(self) -> list[int]:
        return self.labels


class OnlyLabels(Pictures):
    """A data set for samplers, which read its labels alone."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(torch.empty(0), [number for number in range(shape.classes) for _ in range(shape.images)])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images, self.labels[index]


class CategoriesSampler(Sampler):
    """The sampler of many papers' repositories: random permutations of the classes, and of each class's images."""

    def __init__(self, labels: list[int], batches: int, way: int, images: int) -> None:
        self.batches, self.way, self.images = batches, way, images
        array = np.array(labels)
        self.members = [torch.from_numpy(np.argwhere(array == label).reshape(-1)) for label in range(array.max() + 1)]

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.batches):
            batch = []
            for label in torch.randperm(len(self.members))[: self.way]:
                members = self.members[label]
                batch.append(members[torch.randperm(len(members))[: self.images]])
            yield torch.stack(batch).t().reshape(-1)


def easyfsl_sampler(dataset: Pictures, way: int, shot: int, query: int, tasks: int) -> Any:
    """easyfsl's TaskSampler; it passes an argument to PyTorch's Sampler, which no longer takes one."""
    module = imported("easyfsl.samplers")
    random.seed(0)
    with mock.patch.object(Sampler, "__init__", return_value=None):
        return module.TaskSampler(dataset, way, shot, query, tasks)


def learn2learn_tasks(dataset: Pictures, way: int, shot: int, query: int, load: bool) -> Callable[[], object]:
    """A call that samples one of learn2learn's tasks; `load`: with its images."""
    data = imported("learn2learn").data
    random.seed(0)
    np.random.seed(0)
    transforms = [data.transforms.FusedNWaysKShots(meta := data.MetaDataset(dataset), n=way, k=shot + query)]
    if load:
        transforms += [data.transforms.LoadData(meta), data.transforms.RemapLabels(meta)]
        transforms += [data.transforms.ConsecutiveLabels(meta)]
    tasks = data.Taskset(meta, transforms)
    return tasks.sample if load else tasks.sample_task_description


def loader_of(bank: ImageBank, batches: Batches) -> DataLoader:
    """The images and labels of the batches of `bank`, without end, loaded image by image as the peers do."""
    listed = (indices.tolist() for indices in batches.following(bank, 0, 0))
    return DataLoader(Pictures.of(bank), batch_sampler=listed)


def plain_network(backbone: Backbone, channels: int) -> nn.Sequential:
    """The network of `backbone`, with its weights, as the papers' repositories write it."""
    normalise = [_Standardise(backbone)] if channels == 3 else []
    layers = list(backbone.body.children())
    if not isinstance(layers[0], ConvBlock):  # a ResNet is the same everywhere
        body = copy.deepcopy(backbone.body).to(memory_format=torch.contiguous_format)
        return nn.Sequential(*normalise, body, nn.Flatten())
    blocks = []
    for ours in layers:
        assert isinstance(ours, ConvBlock)
        inputs, outputs = ours.convolution.in_channels, ours.convolution.out_channels
        block = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
        )
        block[0].load_state_dict(ours.convolution.state_dict())
        block[1].load_state_dict(ours.norm.state_dict())
        blocks.append(block.to(memory_format=torch.contiguous_format))
    return nn.Sequential(*normalise, *blocks, nn.Flatten())


class _Standardise(nn.Module):
    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.register_buffer("mean", backbone.mean.clone())
        self.register_buffer("deviation", backbone.deviation.clone())

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


def easyfsl_accuracies(
    network: nn.Module, dataset: Pictures, episodes: list[list[int]] | None, way: int, shot: int, query: int, count: int
) -> Iterator[float]:
    """The accuracies of easyfsl's prototypical networks, episode by episode, on its own episodes or on those listed."""
    methods, utils = imported("easyfsl.methods"), imported("easyfsl.utils")
    sampler = easyfsl_sampler(dataset, way, shot, query, count)
    loader = DataLoader(dataset, batch_sampler=episodes or sampler, collate_fn=sampler.episodic_collate_fn)
    model = methods.PrototypicalNetworks(network).eval()
    for support_images, support_labels, query_images, query_labels, _ in loader:
        with torch.no_grad():
            right, of = utils.evaluate_on_one_task(model, support_images, support_labels, query_images, query_labels)
        yield right / of


def plain_accuracies(
    network: nn.Module, dataset: Pictures, episodes: list[list[int]] | None, way: int, shot: int, query: int, count: int
) -> Iterator[float]:
    """As easyfsl_accuracies, of the plain loop: all images of an episode through the network, then the distances.

    Listed episodes go class after class, as easyfsl has them.
    """
    if episodes is not None:
        order = torch.arange(way * (shot + query)).view(way, -1).t().flatten().tolist()
        episodes = [[episode[place] for place in order] for episode in episodes]
    sampler = CategoriesSampler(dataset.labels, count, way, shot + query)
    network.eval()
    labels = torch.arange(way).repeat(query)
    for images, _ in DataLoader(dataset, batch_sampler=episodes or sampler):
        with torch.no_grad():
            embeddings = network(images)
        prototypes = embeddings[: way * shot].reshape(shot, way, -1).mean(dim=0)
        logits = -euclidean(embeddings[way * shot :], prototypes)
        yield (logits.argmax(dim=1) == labels).float().mean().item()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """The squared distances that the papers' repositories compute, (A, B) of a (A, D) and b (B, D)."""
    count, classes = len(a), len(b)
    return ((a.unsqueeze(1).expand(count, classes, -1) - b.unsqueeze(0).expand(count, classes, -1)) ** 2).sum(dim=2)


def plain_loss(network: nn.Module, images: Tensor, way: int) -> Tensor:
    """The loss of prototypical networks with one support image a class; `images` come class after class."""
    embeddings = network(images).unflatten(0, (way, -1))
    query = embeddings[:, 1:]
    targets = torch.arange(way, device=images.device).repeat_interleave(query.shape[1])
    return functional.cross_entropy(-euclidean(query.flatten(0, 1), embeddings[:, 0]), targets)


def easyfsl_loss(model: Any, images: Tensor, way: int) -> Tensor:
    """The same with easyfsl, as its notebook on episodic training has it: support first, then the queries."""
    by_class = images.unflatten(0, (way, -1))
    labels = torch.arange(way, device=images.device)
    model.process_support_set(by_class[:, 0], labels)
    query = by_class[:, 1:]
    return functional.cross_entropy(model(query.flatten(0, 1)), labels.repeat_interleave(query.shape[1]))
