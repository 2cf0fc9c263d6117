"""Pictures of any mode, format and size become the right square RGB images, in order, or stop with their name."""

import io
import struct
import threading
import time

import numpy as np
import pytest
from conftest import encoded, refusal, write_files
from PIL import Image, ImageOps

from episodes import InputError
from episodes.archives import ImageFiles
from episodes.bank import cached_bank
from episodes.pictures import ArrayImages, Picture, contents, cropped, prepared, recoloured, squashed, upright_rgb

ABOUT = {"dataset": "toy", "split": "test"}
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]], [[7, 8, 9], [1, 2, 3]]], np.uint8)


def reopened(image: Image.Image, form: str = "PNG", **options) -> Image.Image:
    """The image as it comes back from a file."""
    data = io.BytesIO()
    image.save(data, form, **options)
    return Image.open(data)


def pixels(image: Image.Image) -> list:
    result = upright_rgb(image)
    assert result.mode == "RGB"
    return np.asarray(result).tolist()


def test_rgb_stays_as_it_is():
    assert pixels(reopened(Image.fromarray(CORNERS))) == CORNERS.tolist()


@pytest.mark.parametrize(("mode", "black", "white"), [("1", 0, 1), ("L", 0, 255), ("P", 0, 255)])
def test_grey_becomes_three_equal_channels(mode, black, white):
    image = Image.new("L", (2, 1), 0).convert(mode)
    image.putpixel((1, 0), white)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    assert pixels(reopened(image)) == [[[black] * 3, [255] * 3]]


def test_levels_of_grey_are_kept():
    image = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    assert pixels(reopened(image)) == [[[level] * 3 for level in range(256)]]


def test_a_palette_gives_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(reopened(image)) == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_becomes_white(form):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(reopened(image, form, transparency=0)) == [[[255] * 3, [200, 100, 50]]]


def test_a_palette_with_half_transparent_colours_is_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(reopened(image, transparency=bytes([51, 255]))) == [[[204] * 3, [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_a_transparent_colour_becomes_white(mode):
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((1, 0), (255, 255, 255))
    key = (0, 0, 0) if mode == "RGB" else 0
    assert pixels(reopened(image.convert(mode), transparency=key)) == [[[255] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("mode", "pixel", "becomes"),
    [
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (0, 100, 255, 51), [204, 224, 255]),
        ("LA", (10, 255), [10, 10, 10]),
        ("LA", (10, 0), [255, 255, 255]),
        ("LA", (0, 51), [204, 204, 204]),
    ],
)
def test_what_is_transparent_is_laid_over_white(mode, pixel, becomes):
    assert pixels(reopened(Image.new(mode, (1, 1), pixel))) == [[becomes]]


@pytest.mark.parametrize(("mode", "source"), [("RGBa", "RGBA"), ("PA", "PA")])
def test_rare_kinds_of_transparency_are_laid_over_white(mode, source):
    transparent = (0, 0) if source == "PA" else (0, 0, 0, 0)
    assert pixels(Image.new(source, (1, 1), transparent).convert(mode)) == [[[255] * 3]]


@pytest.mark.parametrize(("ink", "becomes"), [((0, 0, 0, 0), [255] * 3), ((0, 0, 0, 255), [0] * 3)])
def test_cmyk_is_read_as_inks(ink, becomes):
    assert pixels(reopened(Image.new("CMYK", (1, 1), ink), "TIFF")) == [[becomes]]


@pytest.mark.parametrize("mode", ["HSV", "YCbCr"])
def test_other_colour_spaces_are_converted(mode):
    image = Image.new("RGB", (1, 1), (200, 60, 20)).convert(mode)
    assert np.abs(np.array(pixels(image)) - [200, 60, 20]).max() <= 3


LEVELS = np.array([[0, 128, 255, 33000, 65535]], np.uint16)
SCALED = [[[level] * 3 for level in (0, 0, 1, 128, 255)]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_cut_off(form):
    levels = LEVELS.astype(np.int32) if form == "PPM" else LEVELS  # Pillow 10 cannot write a PPM of the other
    assert pixels(reopened(Image.fromarray(levels), form)) == SCALED


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_grey_is_scaled_in_any_order_of_bytes(mode):
    data = LEVELS.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    image = Image.frombytes(mode, (5, 1), data)
    assert pixels(image) == SCALED


def test_dark_16_bit_grey_stays_dark():
    assert pixels(reopened(Image.fromarray(LEVELS[:, :3]))) == [SCALED[0][:3]]


def test_32_bit_grey_of_16_bits_is_scaled_and_of_8_bits_is_kept():
    assert pixels(Image.fromarray(LEVELS.astype(np.int32))) == SCALED
    assert pixels(Image.fromarray(np.array([[0, 7, 255]], np.int32))) == [[[0] * 3, [7] * 3, [255] * 3]]


def test_floating_point_grey_is_kept_within_bounds():
    image = reopened(Image.fromarray(np.array([[-3, 0, 99.6, 255]], np.float32)), "TIFF")
    assert pixels(image) == [[[0] * 3, [0] * 3, [100] * 3, [255] * 3]]


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_images_in_a_file_it_is_the_first(form):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    more = {"lossless": True} if form == "WEBP" else {}
    image = reopened(first, form, save_all=True, append_images=[second], **more)
    assert image.n_frames == 2
    assert pixels(image) == [[[255, 0, 0]] * 4] * 4


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(orientation, form):
    upright = Image.fromarray(np.kron(CORNERS, np.ones((16, 16, 1), np.uint8)))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = reopened(stored, form, exif=exif, quality=95)
    found = upright_rgb(image)
    assert found.size == (32, 48)
    assert np.abs(np.asarray(found, np.int64)[8::16, 8::16] - CORNERS).max() < 12
    assert np.array_equal(np.asarray(found), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert pixels(reopened(Image.fromarray(CORNERS), exif=exif)) == CORNERS.tolist()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"no TIFF header", b"MM\0*"], ids=["text", "truncated"])
def test_a_sound_picture_without_sound_exif_data_is_left_as_it_is(form, exif):
    assert upright_rgb(reopened(Image.fromarray(CORNERS), form, exif=exif)).size == (2, 3)


def test_damaged_exif_data_do_not_hide_the_orientation():
    tags = struct.pack(">2sHLH", b"MM", 42, 8, 2) + struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0)
    tags += struct.pack(">HHLL", 0x0100, 2, 4, 0x61626300)  # a width in letters
    image = reopened(Image.fromarray(CORNERS), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + tags + bytes(4))
    assert upright_rgb(image).size == (3, 2)


def test_cropping_takes_the_square_in_the_middle():
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    for array in (wide, wide.transpose(1, 0, 2)):
        found = np.asarray(cropped(Image.fromarray(array), 8))
        assert sorted(found[..., 0].flatten().tolist()) == list(range(64))


def test_squashing_keeps_all_of_the_picture():
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 8:] = 200
    found = np.asarray(squashed(Image.fromarray(wide), 8))
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 200).all()
    assert np.array_equal(found, np.asarray(Image.fromarray(wide).resize((8, 8), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("shape", [cropped, squashed])
def test_pictures_of_the_right_size_are_not_touched(shape):
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    assert np.array_equal(np.asarray(shape(Image.fromarray(noise), 9)), noise)


@pytest.mark.parametrize("shape", [cropped, squashed])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (50, 49)])
def test_any_size_becomes_the_one_asked_for(shape, size):
    assert shape(Image.new("RGB", size), 12).size == (12, 12)


class Slow:
    """Images of one colour, their number, of which the first ones take the longest; counts who asks for them."""

    def __init__(self, slow: int = 64, fail_at: int | None = None) -> None:
        self.threads, self.asked, self.slow, self.fail_at = set(), 0, slow, fail_at

    def image(self, key: int, prepare) -> Image.Image:
        self.threads.add(threading.get_ident())
        self.asked += 1
        if key == self.fail_at:
            raise InputError(f"image {key} is no image")
        time.sleep(0.002 if key < self.slow else 0)
        return prepare(Image.new("RGB", (8, 8), (key % 256, key // 256, 7)))

    def name(self, key: int) -> str:
        return f"number {key}"


@pytest.fixture
def many_threads(monkeypatch) -> None:
    monkeypatch.setattr("episodes.pictures.cores", lambda: 6)


def filled(classes: dict, size: int = 8, shape=cropped) -> np.ndarray:
    plan = contents(classes, {}, size, ABOUT, shape)
    images = np.zeros((sum(plan.sizes), *plan.shape), np.uint8)
    plan.fill(images)
    return images


def test_images_stand_in_the_order_of_their_classes_whatever_the_threads_do(many_threads):
    source = Slow()
    numbers = np.random.default_rng(0).permutation(400).tolist()
    classes = {"b": [Picture(source, i) for i in numbers[:150]], "a": [Picture(source, i) for i in numbers[150:]]}
    images = filled(classes)
    assert (images[:, 0, 0, 0] + 256 * images[:, 1, 0, 0].astype(int)).tolist() == numbers
    assert len(source.threads) > 1
    plan = contents(classes, {"a": "letters"}, 8, ABOUT)
    assert (plan.class_names, plan.group_names, list(plan.sizes)) == (["b", "a"], ["", "letters"], [150, 250])


def test_the_first_failure_stops_the_decoding(many_threads):
    source = Slow(slow=6400, fail_at=3)
    with pytest.raises(InputError, match="image 3 is no image"):
        filled({"a": [Picture(source, i) for i in range(6400)]})
    assert source.asked < 3200


def test_an_unreadable_image_is_named_and_leaves_no_bank(tmp_path, own_cache, many_threads):
    good = encoded(CORNERS)
    members = {f"a/{number:03d}.png": good for number in range(200)} | {"a/123.png": good[:40]}
    files = ImageFiles(write_files(tmp_path / "x.zip", members), r"\.png$")
    plan = contents({"a": [Picture(files, name) for name in files.names]}, {}, 8, ABOUT)
    text = refusal(lambda: cached_bank("toy-key", lambda: plan))
    assert f"a/123.png in {tmp_path / 'x.zip'} is not a readable image" in text
    assert [path for path in own_cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_pictures_are_cropped_unless_they_are_to_be_squashed():
    wide = np.zeros((1, 8, 24, 3), np.uint8)
    wide[:, :, :8] = 200
    classes = {"a": [Picture(ArrayImages(wide), 0)]}
    assert filled(classes).max() == 0
    assert filled(classes, shape=squashed).max() == 200


def test_arrays_are_images_by_their_number():
    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    images = filled({"a": [Picture(ArrayImages(array), number) for number in (2, 0)]})
    assert np.array_equal(images, array[[2, 0]].transpose(0, 3, 1, 2))


def test_odd_metadata_warn_nobody(tmp_path):
    content = encoded(CORNERS, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    files = ImageFiles(write_files(tmp_path / "x", {"1.jpg": content}), "jpg$")
    assert filled({"a": [Picture(files, "1.jpg")]}).shape == (1, 3, 8, 8)


def test_a_picture_is_prepared_as_the_banks_of_folders_and_of_omniglot_are(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0).integers(0, 256, (5, 30, 20, 3), dtype=np.uint8)
    files = {f"{number}.png": encoded(pixels) for number, pixels in enumerate(random)}
    source = ImageFiles(write_files(tmp_path / "images", files), r"\.png$")
    classes = {"only": [Picture(source, name) for name in source.names]}
    bank = cached_bank("prepared", lambda: contents(classes, {}, 16, ABOUT, squashed))
    for name, image in zip(bank.files, bank.images.numpy()):
        with Image.open(tmp_path / "images" / name) as picture:
            assert np.array_equal(prepared(picture, 16, 3, bank.fit, bank.inverted), image)
    drawing = Image.fromarray(random[0, :, :, 0] > 99)
    as_omniglot = drawing.convert("L").resize((16, 16), Image.Resampling.BILINEAR).point(lambda level: 255 - level)
    assert np.array_equal(prepared(drawing, 16, 1, "squash", True), np.asarray(as_omniglot)[None])


def test_grey_is_what_pillow_makes_of_colour_and_colour_repeats_grey():
    colours = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 7), dtype=np.uint8)
    grey = recoloured(colours, 1)
    expected = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))[None] for image in colours]
    assert np.array_equal(grey, np.stack(expected))
    assert np.array_equal(recoloured(grey, 3), grey.repeat(3, 1))
    assert np.array_equal(recoloured(recoloured(grey, 3), 1), grey)
    assert np.array_equal(recoloured(grey, 1, inverted=True), 255 - grey)
    assert recoloured(colours, 3) is colours
