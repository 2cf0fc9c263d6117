"""Untrusted pickles of every protocol give plain data, and are refused if they ask for more."""

import collections
import io
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal

from episodes import pickles

PLAIN = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "by columns": np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">i4"),
    "big-endian floats by columns": np.asfortranarray(np.linspace(0, 1, 6, dtype=">f8").reshape(2, 3)),
    "halves": np.linspace(0, 1, 5, dtype=np.float16),
    "booleans": np.array([True, False]),
    "texts": np.array(["n01532829", "é"]),
    "byte texts": np.array([b"n01532829", b"\xff"]),
    "no elements": np.zeros((0, 84, 84, 3), np.uint8),
    "no dimensions": np.array(7.5),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.pkl"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", PLAIN)
def test_arrays_come_out_as_they_went_in(path, kind, protocol):
    array = PLAIN[kind]
    found = pickles.load(written(path, pickle.dumps({"image_data": array}, protocol)))["image_data"]
    assert (found.dtype.newbyteorder("="), found.shape) == (array.dtype.newbyteorder("="), array.shape)
    assert np.array_equal(found, array)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_come_out_as_they_went_in(path, protocol):
    data = {
        "class_dict": {"n01532829": [0, 1, 2], "n01558993": range(3, 6).start},
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "sets": ({1, 2}, frozenset("ab")),
        b"bytes": (b"", b"\x00\xff", bytearray(b"\x00\x7f\x80\xff")),
        "numbers": [0, -1, 2**70, 1.5, 2 - 1j, True, None, float("inf")],
        "texts": ["", "é", "😀"],
        7: (1, (2, [3])),
    }
    found = pickles.load(written(path, pickle.dumps(data, protocol)))
    assert found == data
    assert list(found["ordered"]) == ["b", "a"]
    assert [type(value) for value in found[b"bytes"]] == [bytes, bytes, bytearray]


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_scalars_come_out_as_numbers(path, protocol):
    data = [np.int64(-3), np.uint8(255), np.float32(0.5), np.bool_(True), np.array([7], ">i4")[0]]
    assert pickles.load(written(path, pickle.dumps(data, protocol))) == [-3, 255, 0.5, True, 7]


@pytest.mark.parametrize("protocol", range(6))
def test_one_array_named_twice_stays_one(path, protocol):
    array = np.arange(3, dtype=np.uint8)
    one, other = pickles.load(written(path, pickle.dumps([array, array], protocol)))
    assert one is other


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def short(text: bytes) -> bytes:
    """A str of Python 2."""
    return b"U" + bytes([len(text)]) + text


MINUS_ONE, GIANT = b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f"


def array_of_bytes(shape: bytes, data: bytes, code: bytes = b"u1", subtype: bytes = named("numpy", "ndarray")) -> bytes:
    """An array as Python 2 wrote it; `shape` is a tuple in the language of pickles."""
    empty = named("numpy.core.multiarray", "_reconstruct") + b"(" + subtype + b"(K\x00t" + short(b"b") + b"tR"
    dtype = named("numpy", "dtype") + b"(" + short(code) + b"K\x00K\x01tR(K\x03" + short(b"|") + b"NNNJ"
    dtype += MINUS_ONE[1:] + MINUS_ONE + b"K\x00tb"
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(data)) + data + b"tb"


def test_a_file_of_python_2_is_read(path):
    data = bytes([0, 10, 127, 128, 255, 13])
    content = b"\x80\x02}(" + short(b"image_data") + array_of_bytes(b"K\x02K\x03\x86", data)
    content += short(b"class_dict") + b"}" + short(b"n01532829") + b"](K\x00K\x01esu."
    found = pickles.load(written(path, content))
    assert found["image_data"].tolist() == [[0, 10, 127], [128, 255, 13]]
    assert found["class_dict"] == {"n01532829": [0, 1]}


def test_a_file_of_python_2_in_plain_text_is_read(path):
    content = b"(dp0\nS'labels'\np1\n(lp2\nI1\naI2\nasS'catname2label'\np3\n(dp4\nS'n01532829'\np5\nI1\nss."
    assert pickles.load(written(path, content)) == {"labels": [1, 2], "catname2label": {"n01532829": 1}}


def calling(module: str, name: str, *arguments: str, protocol: int = 0) -> bytes:
    """A pickle that calls the object with a name."""
    if protocol == 0:
        texts = b"".join(f"V{argument}\n".encode() for argument in arguments)
        return named(module, name) + b"(" + texts + b"tR."
    parts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, *arguments)]
    return b"\x80\x04" + parts[0] + parts[1] + b"\x93(" + b"".join(parts[2:]) + b"tR."


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "check_output"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "open"),
        ("builtins", "getattr"),
        ("builtins", "bytes.fromhex"),
        ("__builtin__", "eval"),
        ("io", "open"),
        ("importlib", "import_module"),
        ("functools", "partial"),
        ("operator", "methodcaller"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "decode"),
        ("pickle", "loads"),
        ("pathlib", "PosixPath"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "namedtuple"),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.type"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.testing._private.utils", "runstring"),
        ("torch", "load"),
        ("episodes.pickles", "load"),
    ],
)
def test_what_it_may_not_load_is_named_and_nothing_is_run(tmp_path, path, module, name, protocol):
    made = tmp_path / "made"
    text = refusal(lambda: pickles.load(written(path, calling(module, name, f"touch {made}", protocol=protocol))))
    assert text.startswith(f"{path} is refused: it wants to load {module}.{name},")
    assert [*tmp_path.iterdir()] == [path]


class Made:
    """Calls a function with arguments when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_real_attack_creates_no_file(tmp_path, path, protocol):
    data = {"image_data": PLAIN["bytes"], "class_dict": Made(open, str(tmp_path / "made"), "w")}
    content = pickle.dumps(data, protocol)
    assert "open, which no file of images needs" in refusal(lambda: pickles.load(written(path, content)))
    assert [*tmp_path.iterdir()] == [path]
    pickle.loads(content)["class_dict"].close()
    assert (tmp_path / "made").exists(), "this attack would not have worked anyway"


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_are_refused(path, protocol):
    content = pickle.dumps(np.array([{}, None], dtype=object), protocol)
    assert "an array of the kind 'O8', and images need numbers" in refusal(lambda: pickles.load(written(path, content)))


@pytest.mark.parametrize("code", ["O", "|O8", "V4", "M8[ns]", "u1,O", "(2,)u1", "f8,i4", "object", ""])
def test_kinds_of_arrays_other_than_numbers_and_text_are_refused(path, code):
    content = b"\x80\x02" + array_of_bytes(b"(K\x04t", bytes(4), code.encode()) + b"."
    assert f"holds an array of the kind '{code}'" in refusal(lambda: pickles.load(written(path, content)))


def test_an_array_of_another_type_is_refused(path):
    content = b"\x80\x02" + array_of_bytes(b"(K\x04t", bytes(4), subtype=named("numpy", "memmap")) + b"."
    assert "it wants to load numpy.memmap" in refusal(lambda: pickles.load(written(path, content)))


@pytest.mark.parametrize("subtype", [named("collections", "OrderedDict"), named("builtins", "set"), b"N"])
def test_an_array_is_an_array_whatever_type_it_asks_for(path, subtype):
    content = b"\x80\x02" + array_of_bytes(b"(K\x04t", bytes(4), subtype=subtype) + b"."
    assert isinstance(pickles.load(written(path, content)), np.ndarray)


@pytest.mark.parametrize(
    "shape",
    [b"(" + MINUS_ONE + b"t", b"(K\x05t", b"(K\x03t", b"(t", b"(K\x00" + GIANT + b"t", b"(" + GIANT * 3 + b"t", b"N"],
    ids=["negative", "too many", "too few", "none", "empty", "overflow", "no shape"],
)
def test_arrays_whose_shape_is_not_that_of_their_bytes_are_refused(path, shape):
    content = b"\x80\x02" + array_of_bytes(shape, b"abcd") + b"."
    assert f"{path} is not a whole pickle" in refusal(lambda: pickles.load(written(path, content)))


@pytest.mark.parametrize("content", [b"Pthe disk\n.", b"\x80\x02Vthe disk\nQ."], ids=["text", "binary"])
def test_references_to_things_outside_are_refused(path, content):
    assert "it refers to things outside of itself" in refusal(lambda: pickles.load(written(path, content)))


@pytest.mark.parametrize("state", [b"}V__call__\nNs", b"N}V_function\nNs\x86"], ids=["attributes", "slots"])
@pytest.mark.parametrize("allowed", pickles._ALLOWED, ids=".".join)
def test_what_it_may_load_it_may_not_change(path, allowed, state):
    before = pickle.dumps(PLAIN["bytes"], 2)
    refusal(lambda: pickles.load(written(path, b"\x80\x02" + named(*allowed) + state + b"b.")))
    assert np.array_equal(pickles.load(written(path, before)), PLAIN["bytes"])


@pytest.mark.parametrize("name", ["os\nand.system", "os\r\n.system", "o" * 100_000], ids=["lines", "returns", "long"])
def test_the_refusal_stays_one_short_sentence_whatever_the_name(path, name):
    size = struct.pack("<I", len(name))
    text = refusal(lambda: pickles.load(written(path, b"\x80\x04X" + size + name.encode() + b"\x8c\x01x\x93.")))
    assert "\r" not in text
    assert len(text) < 1000


@pytest.mark.parametrize("allowed", [("builtins", "bytearray"), ("builtins", "bytes"), ("_codecs", "encode")])
def test_a_few_bytes_do_not_ask_for_a_gigabyte(path, allowed):
    content = written(path, named(*allowed) + b"(I50000000\ntR.")  # a twentieth of it: the test should not, either
    assert refusal(lambda: pickles.load(content)).startswith(f"{path} is ")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_truncated_pickle_is_refused(path, protocol):
    content = pickle.dumps({"data": PLAIN["bytes"][0, :1], "labels": [0]}, protocol)
    for length in range(len(content)):
        text = refusal(lambda length=length: pickles.load(written(path, content[:length])))
        assert f"{path} is not a whole pickle" in text


@pytest.mark.parametrize(
    "content",
    [b"<html>\nno\n</html>", b"PK\x03\x04", b"\x80\x09N.", b".", b"N0.", b"\x82\x01.", b"\x80\x05\x97.", b"h\x07."],
    ids=["html", "zip", "newer protocol", "nothing", "popped", "extension", "buffer", "unknown memo"],
)
def test_files_that_are_no_pickle_are_refused(path, content):
    assert f"{path} is not a whole pickle" in refusal(lambda: pickles.load(written(path, content)))


def test_a_missing_file_is_refused(path):
    assert "No such file" in refusal(lambda: pickles.load(path))


def test_a_pickle_made_with_a_reference_by_python_itself_is_refused(path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            return "outside" if value == "away" else None

    data = io.BytesIO()
    Pickler(data, 4).dump(["here", "away"])
    assert "refers to things outside" in refusal(lambda: pickles.load(written(path, data.getvalue())))


EMPTY, ONCE, TWICE = b")", b"\x85", b"q\x00h\x00\x86"  # the empty tuple, (it,) and (it, it)


@pytest.mark.parametrize(
    "content",
    [
        EMPTY + 2_000_000 * ONCE,
        EMPTY + 60 * TWICE,
        b"}" + EMPTY + 25 * TWICE + b"K\x01s",
        b"}(" + EMPTY + 25 * TWICE + b"K\x01u",
        b"(" + EMPTY + 25 * TWICE + b"K\x01d",
        named("builtins", "set") + b"](" + EMPTY + 25 * TWICE + b"e\x85R",
    ],
    ids=["deep", "deep and wide", "key", "keys", "dictionary", "set"],
)
def test_tuples_in_tuples_are_bounded_and_no_keys(path, content):
    """The hash of a tuple that holds another one twice, and so on, takes time that doubles with each."""
    start = time.monotonic()
    refusal(lambda: pickles.load(written(path, b"\x80\x02" + content + b".")))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("point", [0x110000, 0x7FFFFFFF, 0xFFFFFFFF, 0xD800])
@pytest.mark.parametrize("code", ["<U2", ">U2"])
def test_text_arrays_hold_characters_alone(path, code, point):
    data = np.array([ord("é"), point], code.replace("U2", "u4")).tobytes()
    array = array_of_bytes(b"(K\x01t", data, code[1:].encode())
    array = array.replace(short(b"|"), short(code[:1].encode()))
    assert "numbers that are no characters" in refusal(lambda: pickles.load(written(path, b"\x80\x02" + array + b".")))
    sound = np.array(["xy"], code)
    content = pickle.dumps(sound, 5).replace(sound.tobytes(), data)
    assert "numbers that are no characters" in refusal(lambda: pickles.load(written(path, content)))


@pytest.mark.parametrize("protocol", range(6))
def test_text_arrays_of_either_byte_order_come_out(path, protocol):
    texts = ["é😀", "b"]
    for code in ("<U3", ">U3"):
        assert pickles.load(written(path, pickle.dumps(np.array(texts, code), protocol))).tolist() == texts


def test_a_pipe_is_refused_at_once(path):
    os.mkfifo(path)
    assert f"{path} is no regular file" in refusal(lambda: pickles.load(path))
