"""fewshot embed: write the embeddings of a data set to a file of features."""

import argparse
import functools
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

from episodes import FeatureBank, ImageBank, InputError, ReadingOptions, load_dataset
from episodes.datasets import ALL, SPLITS, full_name, has_splits
from episodes.errors import unknown_name
from episodes.features import UNKNOWN
from episodes.reading import EVERYTHING
from fewshot import checkpoints
from fewshot.backbones import Backbone, make_backbone
from fewshot.backbones.base import is_random
from fewshot.commands import arguments, outputs
from fewshot.devices import choose_device, placed, prepare
from fewshot.embedding import at_once, check_channels, in_batches
from fewshot.feature_writing import Features, check_suffix, write_features
from fewshot.files import writing
from fewshot.models import ModelSpec
from fewshot.pretraining import of_base_classes

log = logging.getLogger("fewshot")


def declare(commands: arguments.Commands) -> None:
    """The arguments of `fewshot embed`."""
    parser = commands.add_parser(
        "embed",
        parents=[arguments.data_folder()],
        help="write the embeddings of images to a file of features",
        description="Embed each image of a data set by the network of a checkpoint or by a backbone, and write the"
        " embeddings, with the classes and file names of the images, to one file.",
        epilog="Example: fewshot embed efficientnet-lite0 my-classes/ --output features.npz",
    )
    parser.add_argument("model", metavar="CHECKPOINT|BACKBONE", help="best.pt of a learner, or the name of a backbone")
    parser.add_argument("dataset", metavar="NAME|DIR", help=arguments.DATASET)
    parser.add_argument(
        "--output",
        type=arguments.path,
        default=Path("features.npz"),
        metavar="FILE",
        help="FILE.npz, .safetensors or .parquet (default: features.npz)",
    )
    parser.add_argument(
        "--split",
        default=ALL,
        metavar="SPLIT",
        help="train, validation, test, or all three one after another (default: all); classes that are too few for"
        " splits become test classes",
    )
    parser.add_argument(
        "--float16", action="store_true", help="write float16 numbers: half the bytes, but rounded (default: float32)"
    )
    parser.add_argument("--weights", metavar="FILE", help="a file of weights that the backbone starts from")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width (default: the data set's usual size)"
    )
    outputs.add_overwrite(parser)
    arguments.add_device(parser)
    parser.set_defaults(command=run)


class _Encoder(NamedTuple):
    """The network that embeds the images of `banks`, by split, and what it was trained on: see FeatureBank."""

    backbone: Backbone
    banks: dict[str, ImageBank]
    trained_on: str


def run(options: argparse.Namespace, console: Console) -> None:
    """Embed every image once, and write the file."""
    check_suffix(options.output)
    outputs.check_new(options.output, options.overwrite)
    splits = SPLITS if options.split == ALL else (options.split,)
    if not {*splits} <= {*SPLITS}:
        raise unknown_name("split", options.split, [*SPLITS, ALL])
    device = choose_device(options.device)
    prepare(device)
    made = _of_checkpoint if Path(options.model).is_file() else _of_name
    encoder = made(options, splits)
    encoder.backbone.to(device).eval()
    dtype = np.dtype(np.float16 if options.float16 else np.float32)
    features = _features(encoder, device, dtype)
    with writing(options.output.parent):
        write_features(options.output, features)
    counts = ", ".join(f"{len(bank):,} of {split}" for split, bank in encoder.banks.items())
    print(f"Written to {options.output}: {counts}, {features.shape[1]} numbers of {dtype} each")
    preset = "" if "train" in encoder.banks else " --preset pretrained"  # which needs no base classes
    print(f"Next: fewshot bench --dataset {shlex.quote(str(options.output))}{preset}")


def _of_checkpoint(options: argparse.Namespace, splits: tuple[str, ...]) -> _Encoder:
    """The backbone of a checkpoint, and images prepared as its training images were."""
    path = Path(options.model)
    if options.weights or options.size:
        raise InputError(f"{path} has its own weights and size of images: leave out --weights and --size")
    spec = ModelSpec.from_checkpoint(checkpoints.load(path), path)
    own = spec.dataset == full_name(options.dataset)
    reading = spec.reading if own else EVERYTHING
    banks = _banks(options, splits, spec.size, reading)
    for bank in banks.values():
        check_channels(spec.channels, bank.images.shape[1], bank.name)
    trained_on = spec.trained_on or (UNKNOWN if spec.saw_other_data else spec.dataset)
    if own:
        base = banks.get("train") or _banks(options, ("train",), spec.size, reading)["train"]
        trained_on = "" if of_base_classes(path, base) else trained_on
    return _Encoder(make_backbone(spec.backbone, spec.channels, spec.size, path), banks, trained_on)


def _of_name(options: argparse.Namespace, splits: tuple[str, ...]) -> _Encoder:
    """A backbone by its name, with the weights of a file or those that seed 0 gives, as in a run."""
    banks = _banks(options, splits, options.size)
    channels, size = next(iter(banks.values())).images.shape[1:3]
    torch.manual_seed(0)
    backbone = make_backbone(options.model, channels, size, options.weights or "")
    if is_random(backbone, options.weights or ""):
        log.warning("nothing has trained the network %s, whose weights are random", options.model)
    return _Encoder(backbone, banks, UNKNOWN if options.weights else backbone.trained_on)


def _banks(
    options: argparse.Namespace, splits: tuple[str, ...], size: int | None, reading: ReadingOptions = EVERYTHING
) -> dict[str, ImageBank]:
    loaded = functools.partial(load_dataset, options.dataset, data=options.data, size=size, options=reading)
    if options.split == ALL and not has_splits(options.dataset, reading):
        banks = {"test": loaded(ALL)}  # nothing can be trained on so few classes
    else:
        banks = {split: loaded(split) for split in splits}
    if any(isinstance(bank, FeatureBank) for bank in banks.values()):
        raise InputError(f"{options.dataset} holds features already: name a data set of images")
    return banks


def _features(encoder: _Encoder, device: torch.device, dtype: np.dtype) -> Features:
    """The features of all banks, one after another, class by class; the parts are embedded as they are asked for."""
    banks = encoder.banks.values()
    first = next(iter(banks))
    starts = np.cumsum([0, *(bank.classes for bank in banks)])
    splits = [np.full(len(bank), split) for split, bank in encoder.banks.items()]
    of_rows = {"split": np.concatenate(splits)}
    files = [name for bank in banks for name in getattr(bank, "files", ())]
    count = sum(map(len, banks))
    if len(files) == count:
        of_rows["files"] = np.array(files, dtype=str)
    return Features(
        shape=(count, encoder.backbone.embedding_size),
        dtype=dtype,
        parts=_parts(encoder, device, dtype),
        labels=np.concatenate([bank.labels.numpy() + start for bank, start in zip(banks, starts)]),
        of_classes={
            "class_names": [name for bank in banks for name in bank.class_names],
            "group_names": [name for bank in banks for name in bank.group_names],
        },
        of_rows=of_rows,
        about={
            "dataset": first.dataset,
            "protocol": first.protocol,
            "turns": {split: bank.turns for split, bank in encoder.banks.items()},
            "listed": [split for split, bank in encoder.banks.items() if bank.listed],
            "trained_on": encoder.trained_on,
        },
    )


def _parts(encoder: _Encoder, device: torch.device, dtype: np.dtype) -> Iterator[np.ndarray]:
    """The embeddings, computed in the same batches as in a run, so that their bits are the same."""
    with tqdm(total=sum(map(len, encoder.banks.values())), desc="embedding", unit="image", disable=None) as bar:
        for bank in encoder.banks.values():
            for part in in_batches(encoder.backbone, placed(bank, device), device, at_once(encoder.backbone, device)):
                with np.errstate(over="ignore"):  # numbers too large for float16 become infinite, and are refused
                    rows = part.cpu().numpy().astype(dtype)
                if not np.isfinite(rows).all():
                    raise InputError(
                        f"some embeddings of {bank.name} are no finite numbers of {dtype}"
                        + (": leave out --float16" if dtype.itemsize == 2 else ": its weights may be damaged")
                    )
                yield rows
                bar.update(len(rows))
