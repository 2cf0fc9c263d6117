"""The data sets by name, and `load_dataset`, which opens any split of them as an ImageBank."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from episodes.archives import is_archive
from episodes.bank import ImageBank, cache_folder
from episodes.datasets import (
    cifar,
    cub,
    features,
    folder,
    forms,
    glyphs,
    icons,
    mini_imagenet,
    omniglot,
    orl_faces,
    tiered_imagenet,
    torchvision_sets,
)
from episodes.datasets.splits import SPLITS
from episodes.errors import InputError, unknown_name
from episodes.feature_files import SUFFIXES, is_features
from episodes.features import FeatureBank
from episodes.pooling import pooled
from episodes.reading import EVERYTHING, ReadingOptions

ALL = "all"  # the split of all classes


class Source(NamedTuple):
    """One data set: `load(split, protocol, size, folders)` gives the bank.

    protocols  its split protocols, the ways to split its classes; the first is the default; a seed stands for all seeds
    versions   by split protocol, 1 if it is not named: raised whenever the protocol's images or classes change
    natural    whether its images are photographs, which want other presets than characters
    channels   of its images: 1 for grey, 3 for RGB
    own        whether it is a folder of the user's: `load` and `where` then take `options`, what to leave out, and
               `load` takes the split 'all'
    where      given the folders, where its files are, in words
    features   whether it holds features of images, and not images
    """

    load: Callable[..., ImageBank]
    protocols: tuple[str, ...]
    size: int
    about: str
    where: Callable[..., str]
    natural: bool = True
    versions: Mapping[str, int] = {}
    channels: int = 3
    own: bool = False
    features: bool = False


SOURCES = {
    "omniglot": Source(
        omniglot.load,
        omniglot.PROTOCOLS,
        omniglot.SIZE,
        "1,623 handwritten characters of 50 alphabets x 20 drawings (Lake et al. 2015)",
        omniglot.where,
        natural=False,
        channels=1,
    ),
    "mini_imagenet": Source(
        mini_imagenet.load,
        mini_imagenet.PROTOCOLS,
        mini_imagenet.SIZE,
        "100 classes of ImageNet x 600 images (Vinyals et al. 2016; split of Ravi and Larochelle 2017)",
        mini_imagenet.where,
    ),
    "tiered_imagenet": Source(
        tiered_imagenet.load,
        tiered_imagenet.PROTOCOLS,
        tiered_imagenet.SIZE,
        "608 classes of ImageNet, split by superclass (Ren et al. 2018)",
        tiered_imagenet.where,
    ),
    "cifar_fs": Source(
        cifar.cifar_fs,
        ("bertinetto",),
        cifar.SIZE,
        "CIFAR-100's classes, split at random (Bertinetto et al. 2019)",
        cifar.where,
    ),
    "fc100": Source(
        cifar.fc100,
        ("oreshkin",),
        cifar.SIZE,
        "CIFAR-100's classes, split by superclass (Oreshkin et al. 2018)",
        cifar.where,
    ),
    "cub": Source(
        cub.load,
        cub.PROTOCOLS,
        cub.SIZE,
        "200 kinds of birds, 11,788 photographs (Wah et al. 2011; split of Chen et al. 2019)",
        cub.where,
    ),
    "glyphs": Source(
        glyphs.load,
        glyphs.PROTOCOLS,
        glyphs.SIZE,
        f"{glyphs.CHARACTERS} printed characters of {len(glyphs.SCRIPTS)} scripts x 20 renderings",
        lambda folders: "embedded",
        natural=False,
        channels=1,
    ),
    "orl_faces": Source(
        orl_faces.load,
        orl_faces.PROTOCOLS,
        orl_faces.SIZE,
        "40 people x 10 grey photographs of their faces (Samaria and Harter 1994)",
        orl_faces.where,
        channels=1,
    ),
    "icons": Source(
        icons.load,
        icons.PROTOCOLS,
        icons.SIZE,
        f"names that {icons.SETS} free icon sets or more draw, from the npm package @iconify/json",
        icons.where,
        natural=False,
        channels=1,
    ),
}
_TORCHVISION = "torchvision:"
_SEED = r"seed\d{1,9}"


def find_source(name: str) -> tuple[Source, str]:
    """The data set that a name stands for, and the split protocol; InputError for an unknown name.

    Behind any of these names, :grey, :rgb and :inverted choose the colour form of the images.

    omniglot, omniglot:lake                a data set of the suite, with its split protocol if that is not the default
    torchvision:CIFAR10, the same:seed7    one of torchvision's, its classes split by a seed
    path/to/images, the same:seed7         a folder or an archive of images (see episodes/datasets/folder.py)
    features.npz, the same:seed7           a file of features (see episodes/datasets/features.py)
    """
    name, words = forms.split_name(name)
    if words:
        source, protocol = find_source(name)
        return source._replace(channels=forms.channels_of(words, source.channels)), protocol
    if name.startswith(_TORCHVISION):
        dataset, _, seed = name.removeprefix(_TORCHVISION).partition(":")
        torchvision_sets.find(dataset)
        load = functools.partial(torchvision_sets.load, dataset)
        about = f"torchvision.datasets.{dataset}, its classes split by a seed"
        source = Source(load, ("seed0",), torchvision_sets.SIZE, about, lambda folders: "opened by torchvision")
        return source, _seed(seed, name) or "seed0"
    dataset, _, protocol = name.partition(":")
    if dataset in SOURCES:
        source = SOURCES[dataset]
        if protocol and protocol not in source.protocols:
            raise unknown_name(f"split protocol of {dataset}", protocol, source.protocols)
        return source, protocol or source.protocols[0]
    path, seed = _path_and_seed(name)
    if name and (path.is_dir() or is_archive(path)):
        load = functools.partial(_load_folder, path)
        place = functools.partial(_where_folder, path, seed)
        return Source(load, ("", "seed0"), folder.SIZE, "images of yours", place, own=True), seed
    if name and is_features(path):
        opened = functools.partial(_load_features, path)
        about = "features of yours"
        return Source(
            opened, ("", "seed0"), features.SIZE, about, lambda folders: features.where(path, seed), features=True
        ), seed
    if name and path.suffix.lower() in SUFFIXES:
        raise InputError(f"there is no file of features at {path}")
    if "/" in name or os.sep in name or name.startswith("."):
        raise InputError(f"there is no folder or archive of images at {path}")
    raise InputError(f"{unknown_name('data set', dataset, SOURCES)} (or the path of a folder of images)")


def data_version(dataset: str, protocol: str) -> int:
    """The version of the images and classes of a split protocol of `dataset`, the name that its banks have."""
    return SOURCES[dataset].versions.get(protocol, 1) if dataset in SOURCES else 1


def full_name(name: str) -> str:
    """The name with its split protocol, as 'omniglot:vinyals'; a path becomes absolute."""
    _, protocol = find_source(name)
    name, words = forms.split_name(name)
    dataset = name.removesuffix(f":{protocol}") if protocol else name
    if not _is_known(dataset):
        dataset = str(Path(dataset).resolve())
    return ":".join(filter(None, [dataset, protocol, *words]))


def short_name(name: str) -> str:
    """A name for folders: without the default split protocol; of a path, its last part."""
    source, protocol = find_source(name)
    usual = protocol == source.protocols[0]
    name, words = forms.split_name(name)
    dataset = name.removesuffix(f":{protocol}") if protocol else name
    if source.features:
        dataset = Path(dataset).stem
    else:
        dataset = dataset.removeprefix(_TORCHVISION) if _is_known(dataset) else folder.dataset_name(Path(dataset))
    return "-".join([dataset, *([] if usual else [protocol]), *words])


def data_folders(data: str | os.PathLike | None = None) -> list[Path]:
    """The folders that are searched for data sets, in this order: `data`, otherwise $FEWSHOT_DATA; the cache folder."""
    chosen = data or os.environ.get("FEWSHOT_DATA")
    if chosen and not Path(chosen).is_dir():
        raise InputError(f"the data folder {chosen} ({'--data' if data else 'FEWSHOT_DATA'}) does not exist")
    return [*([Path(chosen)] if chosen else []), cache_folder() / "data"]


def load_dataset(
    name: str,
    split: str,
    *,
    data: str | os.PathLike | None = None,
    size: int | None = None,
    options: ReadingOptions = EVERYTHING,
) -> ImageBank:
    """One split of a data set as a memory-mapped ImageBank, prepared in the cache folder on first use.

    name   a data set, with its split protocol if that is not the default one, or a folder of images: see find_source
    split  'train', 'validation' or 'test': disjoint classes; 'all' for the classes of all three
    data   the folder that holds the data sets; by default $FEWSHOT_DATA
    size   height and width in pixels; by default the customary one
    options  what is left out of the user's own images

    Raises InputError with a sentence to act on; MissingData if the files are missing and cannot be downloaded.
    """
    source, protocol = find_source(name)
    if split not in (*SPLITS, ALL):
        raise unknown_name("split", split, (*SPLITS, ALL))
    if size not in (None, source.size) and not 8 <= size <= 1024:
        raise InputError(f"an image size of {size} pixels is not between 8 and 1024")
    load, size, folders = source.load, size or source.size, data_folders(data)
    if source.own:
        load = functools.partial(load, options=options)
    elif options != EVERYTHING:
        raise InputError(f"the images of {name} are fixed: min_images and skip_damaged are for folders of your own")
    with _readable():
        if split == ALL and not (source.own or source.features):
            bank = pooled([load(one, protocol, size, folders) for one in SPLITS])
        else:
            bank = load(split, protocol, size, folders)
        return forms.in_form(bank, forms.split_name(name)[1])


def split_to_test(name: str, options: ReadingOptions = EVERYTHING) -> str:
    """The split of a data set that a model was not trained on: 'test', or 'all' if no class need be kept for training.

    These are folders of images and files of features whose user names no test classes and no seed. Arguments and errors
    are those of load_dataset.
    """
    source, protocol = find_source(name)
    if protocol or not (source.own or source.features):
        return "test"
    path = Path(forms.split_name(name)[0])
    with _readable():
        given = features.gives_test(path) if source.features else folder.gives_test(path, options)
    return "test" if given else ALL


def has_splits(name: str, options: ReadingOptions = EVERYTHING) -> bool:
    """Whether a data set has splits or enough classes to make some; a folder of few images of a user may have neither.
    Arguments and errors are those of load_dataset."""
    source, protocol = find_source(name)
    if not source.own:
        return True
    with _readable():
        return bool(folder.look(folder.image_files(Path(forms.split_name(name)[0])), protocol, options).splits)


def where(source: Source, data: str | os.PathLike | None = None, options: ReadingOptions = EVERYTHING) -> str:
    """Where the files of a data set are, in words; InputError if a file cannot be read."""
    with _readable():
        if source.own:
            return source.where(data_folders(data), options=options)
        return source.where(data_folders(data))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turns the OSError for a file that cannot be read into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or 'the data'} cannot be read ({error.strerror or error})") from error


def _load_folder(
    path: Path, split: str, protocol: str, size: int, folders: list[Path], options: ReadingOptions = EVERYTHING
) -> ImageBank:
    return folder.load(path, split, protocol, size, options)


def _where_folder(path: Path, protocol: str, folders: list[Path], options: ReadingOptions = EVERYTHING) -> str:
    return folder.where(path, protocol, options)


def _load_features(path: Path, split: str, protocol: str, size: int, folders: list[Path]) -> FeatureBank:
    return features.load(path, split, protocol, size)


def _is_known(dataset: str) -> bool:
    return dataset.partition(":")[0] in SOURCES or dataset.startswith(_TORCHVISION)


def _path_and_seed(name: str) -> tuple[Path, str]:
    path, _, seed = name.rpartition(":")
    return (Path(path), seed) if path and re.fullmatch(_SEED, seed) else (Path(name), "")


def _seed(word: str, name: str) -> str:
    if word and not re.fullmatch(_SEED, word):
        raise InputError(f"'{word}' in {name} is no seed: write seed0, seed1 and so on")
    return word
