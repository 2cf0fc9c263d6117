"""Data and tasks: image banks, the data sets that fill them, and samplers of episodes and training batches."""

from episodes.bank import ImageBank
from episodes.batches import ClassBatches, ShuffledBatches
from episodes.datasets import load_dataset
from episodes.errors import InputError, MissingData
from episodes.features import FeatureBank
from episodes.reading import ReadingOptions
from episodes.sampler import Episodes, EpisodeSampler, ListedEpisodes, Sampler
from episodes.texts import class_texts

__all__ = [
    "ClassBatches",
    "EpisodeSampler",
    "Episodes",
    "FeatureBank",
    "ImageBank",
    "InputError",
    "ListedEpisodes",
    "MissingData",
    "ReadingOptions",
    "Sampler",
    "ShuffledBatches",
    "class_texts",
    "load_dataset",
]
