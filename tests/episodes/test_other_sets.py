"""CIFAR-FS, FC100, CUB, tieredImageNet and torchvision's sets in faithful miniatures: right classes, right images."""

import collections
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import encoded, refusal, write_files
from PIL import Image
from torchvision.datasets import CIFAR100, MNIST

from episodes import ImageBank, MissingData, load_dataset
from episodes.datasets import SPLITS, cifar, cub, tiered_imagenet
from episodes.datasets.classes import read_classes

SIZE = 16
FACTS = {  # classes and superclasses of each split, as published; None if there are no superclasses
    "cifar_fs": {"train": (64, None), "validation": (16, None), "test": (20, None)},
    "fc100": {"train": (60, 12), "validation": (20, 4), "test": (20, 4)},
    "mini_imagenet": {"train": (64, None), "validation": (16, None), "test": (20, None)},
    "tiered_imagenet": {"train": (351, 20), "validation": (97, 6), "test": (160, 8)},
}


@pytest.fixture(scope="module", autouse=True)
def module_cache(tmp_path_factory):
    """A cache for this file alone: other tests must not find the banks of miniatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FEWSHOT_DATA", raising=False)
        yield


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 99


def picture(number: int) -> bytes:
    """A PNG of one colour, a different colour for each number."""
    return encoded(np.full((SIZE, SIZE, 3), colour(number), np.uint8))


def opened(name: str, folder: Path, size: int = SIZE) -> dict[str, ImageBank]:
    return {split: load_dataset(name, split, data=folder, size=size) for split in SPLITS}


def numbers(bank: ImageBank) -> dict[str, list[int]]:
    """The numbers of the pictures of each class."""
    assert bool((bank.images == bank.images[:, :, :1, :1]).all())
    assert bool((bank.images[:, 2] == 99).all())
    known = (bank.images[:, 0, 0, 0].int() + 256 * bank.images[:, 1, 0, 0].int()).split(bank.sizes.tolist())
    return {name: found.tolist() for name, found in zip(bank.class_names, known)}


def missing(name: str, folder: Path) -> str:
    return refusal(lambda: load_dataset(name, "test", data=folder, size=SIZE), MissingData)


def refused(name: str, folder: Path, split: str = "test") -> str:
    return refusal(lambda: load_dataset(name, split, data=folder, size=SIZE))


@pytest.mark.parametrize("dataset", FACTS)
def test_class_tables_have_their_published_sizes_and_no_class_twice(dataset):
    rows = read_classes(dataset)
    assert collections.Counter(row["split"] for row in rows) == {s: n for s, (n, _) in FACTS[dataset].items()}
    key = "wordnet_id" if "wordnet_id" in rows[0] else "name"
    assert len({row[key] for row in rows}) == len(rows)
    assert all(value and value == value.strip() for row in rows for value in row.values())


@pytest.mark.parametrize("dataset", ["fc100", "tiered_imagenet"])
def test_no_superclass_is_in_two_splits_of_a_table(dataset):
    homes = collections.defaultdict(set)
    for row in read_classes(dataset):
        homes[row["superclass"]].add(row["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    assert collections.Counter(split for (split,) in homes.values()) == {
        split: superclasses for split, (_, superclasses) in FACTS[dataset].items()
    }


def test_both_tables_of_cifar_have_the_same_hundred_classes():
    assert {row["name"] for row in read_classes("cifar_fs")} == {row["name"] for row in read_classes("fc100")}


@pytest.mark.parametrize("dataset", ["mini_imagenet", "tiered_imagenet"])
def test_classes_of_imagenet_go_by_wordnet_ids(dataset):
    for row in read_classes(dataset):
        assert row["wordnet_id"][0] == "n"
        assert len(row["wordnet_id"]) == 9
        assert row["wordnet_id"][1:].isdigit()


CIFAR_CLASSES = sorted(row["name"] for row in read_classes("fc100"))
SUPERCLASS = {row["name"]: row["superclass"] for row in read_classes("fc100")}


def cifar_part(offset: int, each: int, seed: int) -> bytes:
    """A pickle as of CIFAR-100: image i of class c, at any place, is the picture number offset + each * c + i."""
    order = np.random.default_rng(seed).permutation(100 * each)
    pixels = np.array([colour(offset + int(number)) for number in order], np.uint8)
    return pickle.dumps(
        {
            "filenames": [f"{number}.png" for number in order],
            "batch_label": "1 of 1",
            "fine_labels": [int(number) // each for number in order],
            "coarse_labels": [0] * len(order),
            "data": np.repeat(pixels, 32 * 32, axis=1),  # all red, all green, all blue
        },
        protocol=2,
    )


@pytest.fixture(scope="module")
def cifar_100(tmp_path_factory):
    """CIFAR-100 of two training images and one test image a class."""
    names = {"fine_label_names": CIFAR_CLASSES, "coarse_label_names": sorted(set(SUPERCLASS.values()))}
    files = {
        "train": cifar_part(0, 2, seed=0),
        "test": cifar_part(200, 1, seed=1),
        "meta": pickle.dumps(names, protocol=2),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "IMAGES", 3)
        home = tmp_path_factory.mktemp("cifar")
        yield write_files(home, {f"cifar-100-python/{name}": data for name, data in files.items()})


@pytest.mark.parametrize("dataset", ["cifar_fs", "fc100"])
def test_both_parts_of_cifar_are_pooled_and_split_as_published(cifar_100, dataset):
    found = opened(dataset, cifar_100)
    assert {split: bank.classes for split, bank in found.items()} == {s: n for s, (n, _) in FACTS[dataset].items()}
    assert {name: sorted(images) for bank in found.values() for name, images in numbers(bank).items()} == {
        name: [2 * label, 2 * label + 1, 200 + label] for label, name in enumerate(CIFAR_CLASSES)
    }
    for split, bank in found.items():
        assert set(bank.class_names) == {row["name"] for row in read_classes(dataset) if row["split"] == split}


def test_superclasses_of_fc100_are_its_groups_each_in_one_split(cifar_100):
    found = opened("fc100", cifar_100)
    for bank in found.values():
        assert bank.group_names == tuple(SUPERCLASS[name] for name in bank.class_names)
    groups = [set(bank.group_names) for bank in found.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 20


def cifar_pictures() -> dict[str, list[np.ndarray]]:
    """Three random images of each class."""
    pixels = np.random.default_rng(5).integers(0, 256, (100, 3, 32, 32, 3), dtype=np.uint8)
    return {name: list(pixels[number]) for number, name in enumerate(CIFAR_CLASSES)}


def as_official() -> dict[str, bytes]:
    """The pickles train and test, shuffled, with names in bytes as Python 2 wrote them."""
    files = {}
    for part, chosen in (("train", (2, 0)), ("test", (1,))):
        rows = [(image, number) for number, name in enumerate(CIFAR_CLASSES) for image in chosen]
        rows = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
        pixels = [cifar_pictures()[CIFAR_CLASSES[number]][image].transpose(2, 0, 1).ravel() for image, number in rows]
        content = {b"data": np.stack(pixels), b"fine_labels": [number for _, number in rows]}
        files[f"cifar-100-python/{part}"] = pickle.dumps(content, protocol=2)
    return files


def as_class_folders(called=lambda name: name, around=("train/", "train/", "test/")) -> dict[str, bytes]:
    return {
        f"{around[number]}{called(name)}/{9 - number}.png": encoded(image)
        for name, images in cifar_pictures().items()
        for number, image in enumerate(images)
    }


def as_tables() -> dict[str, bytes]:
    """Parquet files as Hugging Face keeps CIFAR-100."""
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    files = {}
    for part, chosen in (("train", (1, 2)), ("test", (0,))):
        rows = [(cifar_pictures()[name][image], place) for place, name in enumerate(CIFAR_CLASSES) for image in chosen]
        columns = {
            "img": [{"bytes": encoded(image), "path": None} for image, _ in rows],
            "fine_label": [number for _, number in rows],
            "coarse_label": [0] * len(rows),
        }
        packed = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), packed)
        files[f"data/{part}-00000-of-00001.parquet"] = packed.getvalue()
    return files


def numbered(name: str) -> str:
    return str(CIFAR_CLASSES.index(name))


def spelled_otherwise(name: str) -> str:
    return name.replace("_", " ").title()


CIFAR_FORMS = {
    "cifar-100": as_official,
    "cifar-100-python.tar.gz": as_official,
    "CIFAR100": as_class_folders,
    "cifar100.zip": as_class_folders,
    "cifar_fs": lambda: as_class_folders(around=("", "", "")),
    "fc100": lambda: as_class_folders(numbered),
    "cifar": lambda: as_class_folders(spelled_otherwise, ("CIFAR-100/train/", "CIFAR-100/train/", "CIFAR-100/test/")),
    "cifar100": as_tables,
    "cifar100.tar": as_tables,
}


@pytest.mark.parametrize("home", CIFAR_FORMS)
def test_every_form_of_cifar_gives_one_bank_of_its_own_pixels(cifar_100, tmp_path, own_cache, home):
    write_files(tmp_path / "data" / home, CIFAR_FORMS[home]())
    write_files(tmp_path / "data" / "cifar-10-batches-py", {"data_batch_1": b"another data set"})
    bank = load_dataset("cifar_fs", "test", data=tmp_path / "data")
    assert bank.class_names == tuple(row["name"] for row in read_classes("cifar_fs") if row["split"] == "test")
    assert bank.sizes.tolist() == [3] * 20
    for name, images in zip(bank.class_names, bank.images.split(3)):
        expected = sorted(image.transpose(2, 0, 1).tobytes() for image in cifar_pictures()[name])
        assert [image.numpy().tobytes() for image in images] == expected
    assert bank.checksum == "16869581f0787d4bad98aa2f11e00767"
    assert len(bank.files) == 60


def too_few() -> dict[str, bytes]:
    files = as_class_folders()
    return {name: data for name, data in files.items() if name not in ("train/bear/9.png", "test/wolf/7.png")}


def another_label() -> dict[str, bytes]:
    content = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [100]}
    return {"train": pickle.dumps(content), "test": pickle.dumps(content)}


def ten_classes() -> dict[str, bytes]:
    content = {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}
    return {"train": pickle.dumps(content), "test": pickle.dumps(content)}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (too_few, "is not the whole of CIFAR-100, whose classes have 3 images each, those of training and test "),
        (too_few, "together: bear has 2, wolf has 2; download it again"),
        (another_label, "has the label '100', which is no fine label of CIFAR-100"),
        (ten_classes, "does not hold data and fine_labels as CIFAR-100's pickles do"),
        (lambda: {"test": b"\x80\x02cos\nsystem\n.", "train": b""}, "is refused: it wants to load os.system"),
        (lambda: {"test": as_official()["cifar-100-python/train"][:900], "train": b""}, "is not a whole pickle"),
    ],
    ids=["few images", "all classes at fault", "a label", "CIFAR-10", "code", "cut off"],
)
def test_a_cifar_that_is_not_whole_is_refused(cifar_100, tmp_path, own_cache, make, said):
    home = write_files(tmp_path / "data" / "cifar-100-python", make())
    text = refused("fc100", tmp_path / "data")
    assert said in text
    assert str(home) in text
    assert list(own_cache.glob("banks/*")) == []


@pytest.mark.parametrize("dataset", ["cifar_fs", "fc100"])
def test_no_cifar_and_no_network_says_what_to_do(tmp_path, own_cache, no_network, dataset):
    text = missing(dataset, tmp_path)
    for word in (str(tmp_path), "no network in this test", CIFAR100.url, "cifar100/", "--data", "FEWSHOT_DATA"):
        assert word in text
    assert [path for path in own_cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_where_cifar_is_is_told(cifar_100, tmp_path):
    assert cifar.where([tmp_path, cifar_100]) == f"pickles in {cifar_100 / 'cifar-100-python'}"
    assert cifar.where([tmp_path]).startswith("not found")


BIRDS = [f"{number:03d}.Bird_{'zyx'[number % 3]}" for number in range(1, 201)]


def birds() -> dict[str, bytes]:
    """CUB-200-2011 of two photographs a class, called as in its archive, and other files that it has."""
    files = {
        f"CUB_200_2011/images/{name}/{name[4:]}_{i:04d}_79{i}.jpg": picture(2 * label + i)
        for label, name in enumerate(BIRDS)
        for i in range(2)
    }
    masks = {name.replace("CUB_200_2011/images", "segmentations").replace("jpg", "png"): picture(0) for name in files}
    return {**files, **masks, "CUB_200_2011/README": b"text", "CUB_200_2011/images.txt": b"text"}


@pytest.fixture
def small_cub(monkeypatch) -> None:
    monkeypatch.setattr(cub, "IMAGES", 400)


def as_archive(folder: Path, files: dict[str, bytes]) -> Path:
    return write_files(folder / "CUB_200_2011.tgz", files).parent


def as_folder(folder: Path, files: dict[str, bytes]) -> Path:
    return write_files(folder, files)


def as_images(folder: Path, files: dict[str, bytes]) -> Path:
    images = {name.replace("CUB_200_2011/images", "cub"): files[name] for name in files if "/images/" in name}
    return write_files(folder, images)


@pytest.mark.parametrize("layout", [as_archive, as_folder, as_images], ids=lambda layout: layout.__name__)
def test_cub_is_split_by_the_number_of_the_class(small_cub, tmp_path, own_cache, layout):
    found = opened("cub", layout(tmp_path / "data", birds()))
    expected = {
        "train": [label for label in range(200) if label % 2 == 0],
        "validation": [label for label in range(200) if label % 4 == 1],
        "test": [label for label in range(200) if label % 4 == 3],
    }
    assert [bank.classes for bank in found.values()] == [100, 50, 50]
    for split, labels in expected.items():
        assert numbers(found[split]) == {BIRDS[label]: [2 * label, 2 * label + 1] for label in labels}
        assert list(found[split].class_names) == [BIRDS[label] for label in labels]


def test_a_cub_without_one_class_or_one_image_is_refused(small_cub, tmp_path, own_cache):
    files = birds()
    gone = [name for name in files if f"images/{BIRDS[77]}/" in name]
    del files[gone[0]]
    text = refused("cub", as_archive(tmp_path / "image", files))
    assert "CUB_200_2011.tgz has 399 images of 200 classes" in text
    del files[gone[1]]
    assert "CUB_200_2011.tgz has 398 images of 199 classes" in refused("cub", as_archive(tmp_path / "class", files))


def test_no_cub_says_where_to_get_it(tmp_path, own_cache):
    text = missing("cub", tmp_path)
    for word in (str(tmp_path), "CUB_200_2011.tgz", "https://"):
        assert word in text
    assert cub.where([tmp_path]) == "not found"


TIERED = read_classes("tiered_imagenet")
VALIDATION = [row["wordnet_id"] for row in TIERED if row["split"] == "validation"]


def imagenet(at: str = "") -> dict[str, bytes]:
    """Class folders of ImageNet's training set, two images a class, and a class that tieredImageNet has not."""
    ids = [*(row["wordnet_id"] for row in TIERED), "n99999999"]
    return {
        f"{at}{name}/{name}_{5 - i}.JPEG": picture(2 * number + 1 - i)
        for number, name in enumerate(ids)
        for i in range(2)
    }


@pytest.fixture(scope="module")
def small_tiered(tmp_path_factory) -> Path:
    return write_files(tmp_path_factory.mktemp("data"), imagenet("ImageNet/train/"))


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(tiered_imagenet, "FEWEST", 2)


def test_tiered_imagenet_has_its_published_classes_and_their_images(small_tiered, few):
    found = opened("tiered_imagenet", small_tiered)
    assert [bank.classes for bank in found.values()] == [351, 97, 160]
    assert {name: images for bank in found.values() for name, images in numbers(bank).items()} == {
        f"{row['wordnet_id']} {row['name']}": [2 * number, 2 * number + 1] for number, row in enumerate(TIERED)
    }
    for split, bank in found.items():
        rows = [row for row in TIERED if row["split"] == split]
        assert bank.group_names == tuple(row["superclass"] for row in rows)
        assert bank.class_names == tuple(f"{row['wordnet_id']} {row['name']}" for row in rows)
    groups = [set(bank.group_names) for bank in found.values()]
    assert list(map(len, groups)) == [20, 6, 8]
    assert len(set.union(*groups)) == 34


def test_whole_images_of_tiered_imagenet_are_squashed_to_squares(small_tiered, few, tmp_path, own_cache):
    rows = [row for row in TIERED if row["split"] == "validation"]
    pixels = np.zeros((16, 64, 3), np.uint8)
    pixels[:, :16] = 255
    files = {f"imagenet/{row['wordnet_id']}/{i}.png": encoded(pixels) for row in rows for i in range(2)}
    bank = load_dataset("tiered_imagenet", "validation", data=write_files(tmp_path / "data", files), size=SIZE)
    assert bool((bank.images[..., :3] > 250).all()), "the left edge is lost"
    assert bool((bank.images[..., 6:] < 5).all())


def test_a_short_class_of_tiered_imagenet_is_named(few, tmp_path, own_cache):
    files = imagenet("tiered_imagenet/")
    row = next(row for row in TIERED if row["wordnet_id"] == VALIDATION[3])
    name = row["wordnet_id"]
    del files[f"tiered_imagenet/{name}/{name}_5.JPEG"]
    path = write_files(tmp_path / "data", {key: files[key] for key in files if any(i in key for i in VALIDATION)})
    text = refused("tiered_imagenet", path, "validation")
    assert f"validation split, whose classes have 2 images or more: {name} ({row['name']}) has 1; copy" in text


def test_images_of_imagenets_validation_set_are_not_of_tiered_imagenet(few, tmp_path, own_cache):
    files = {f"imagenet/{name}/ILSVRC2012_val_0000000{i}.JPEG": picture(0) for name in VALIDATION for i in range(2)}
    files |= {f"imagenet/{name}/{name}_{i}.JPEG": picture(1) for name in VALIDATION[:-5] for i in range(2)}
    text = refused("tiered_imagenet", write_files(tmp_path / "data", files), "validation")
    assert f"{VALIDATION[-5]} (" in text
    assert ") has 0" in text
    assert "and 2 more have too few" in text


def test_no_imagenet_says_what_to_put_where(tmp_path, own_cache):
    text = missing("tiered_imagenet", tmp_path)
    for word in (str(tmp_path), "n01530575/", "tiered_imagenet/", "imagenet/"):
        assert word in text
    assert tiered_imagenet.where([tmp_path]) == "not found"


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST: magic number, dimensions, bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def digits(labels: list[int], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose left half is of shade 10 * label, whose right half is of their number."""
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, :, :14] = 10 * np.array(labels)[:, None, None]
    images[:, :, 14:] = first + np.arange(len(labels))[:, None, None]
    return images, np.array(labels, np.uint8)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    """Of each digit two training images, numbers 0 to 19, and one test image, numbers 20 to 29."""
    files = {}
    for part, labels, first in (("train", [*range(10), *reversed(range(10))], 0), ("t10k", [*range(10)], 20)):
        images, labels = digits(labels, first)
        files |= {f"{part}-images-idx3-ubyte": idx(images), f"{part}-labels-idx1-ubyte": idx(labels)}
    folder = tmp_path_factory.mktemp("data")
    write_files(folder / "MNIST" / "raw", files)
    return folder


def test_a_set_of_torchvision_is_pooled_and_split_by_class(mnist):
    found = opened("torchvision:MNIST", mnist, size=28)
    assert {split: bank.classes for split, bank in found.items()} == {"train": 5, "validation": 2, "test": 3}
    names = [name for bank in found.values() for name in bank.class_names]
    assert len(names) == len(set(names)) == 10
    for split, bank in found.items():
        assert bank.name == f"MNIST (seed0) {split}"
        assert tuple(bank.images.shape) == (3 * bank.classes, 3, 28, 28)
        for image, label in zip(bank.images, bank.labels.tolist()):
            assert bool((image[:, :, :14] == 10 * int(bank.class_names[label][0])).all())
        for start, name in enumerate(bank.class_names):
            digit = int(name[0])
            assert name.startswith(f"{digit} - ")
            images = bank.images[3 * start : 3 * start + 3]
            assert images[:, 0, 0, 20].tolist() == [digit, 19 - digit, 20 + digit]


def test_another_seed_splits_a_set_of_torchvision_otherwise(mnist):
    one, same, other = (
        load_dataset(f"torchvision:MNIST{seed}", "test", data=mnist, size=SIZE) for seed in ("", ":seed0", ":seed5")
    )
    assert one.checksum == same.checksum
    assert set(one.class_names) != set(other.class_names)
    assert other.protocol == "seed5"


def test_a_missing_set_of_torchvision_says_what_to_do(tmp_path, own_cache, no_network):
    text = missing("torchvision:KMNIST", tmp_path)
    for word in ("KMNIST", str(tmp_path), "no network in this test", "--data", "FEWSHOT_DATA"):
        assert word in text
    assert [path for path in own_cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize(("name", "task"), [("VOCDetection", "Main"), ("VOCSegmentation", "Segmentation")])
def test_a_set_of_torchvision_without_classes_is_refused(tmp_path, own_cache, name, task):
    box = b"<annotation><object><name>cat</name></object></annotation>"
    files = {f"ImageSets/{task}/train.txt": b"".join(b"%d\n" % i for i in range(8))}
    for i in range(8):
        files |= {f"JPEGImages/{i}.jpg": picture(i), f"Annotations/{i}.xml": box}
        files[f"SegmentationClass/{i}.png"] = picture(0)
    write_files(tmp_path / "VOCdevkit" / "VOC2012", files)
    assert f"torchvision's {name} are not (image, class)" in refused(f"torchvision:{name}", tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MNITS", "unknown data set of torchvision 'MNITS': did you mean 'MNIST'"),
        ("", "unknown data set of torchvision ''"),
        ("VisionDataset", "torchvision's VisionDataset is no data set"),
        ("ImageFolder", "torchvision's ImageFolder is no data set but a way to read a folder"),
        ("CocoDetection", "torchvision's CocoDetection cannot be opened as images with classes"),
        ("EMNIST", "torchvision's EMNIST has splits of its own"),
        ("MNIST:lake", "'lake' in torchvision:MNIST:lake is no seed"),
    ],
)
def test_what_torchvision_has_not_is_refused_in_a_sentence(mnist, name, said):
    assert said in refused(f"torchvision:{name}", mnist)


def test_a_set_that_is_downloaded_is_downloaded_once(tmp_path, own_cache, monkeypatch):
    downloads = []

    class Fetched(MNIST):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            if download and train:
                downloads.append(root)
            home = Path(root) / "Fetched"
            if download:
                home.mkdir(exist_ok=True)
            elif not home.is_dir():
                raise RuntimeError("Dataset not found")
            self.targets = [label for label in range(10) for _ in range(3)]

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("L", (16, 16), index), self.targets[index]

    monkeypatch.setattr(torchvision.datasets, "Fetched", Fetched, raising=False)
    banks = [load_dataset("torchvision:Fetched", split, data=tmp_path, size=16) for split in SPLITS]
    assert len(downloads) == 1
    assert sum(map(len, banks)) == 60
