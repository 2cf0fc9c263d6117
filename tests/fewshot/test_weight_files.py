"""Files of weights in the forms that people have are read, and other files are refused with the way out."""

import argparse
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from episodes import InputError
from fewshot.backbones import make_backbone
from fewshot.backbones.weight_files import read_weights

SAVE = "torch.save(model.state_dict(), 'weights.pt')"


@pytest.fixture(scope="module")
def conv4():
    torch.manual_seed(5)
    return make_backbone("conv4", 1, 16)


def check_loads(path, conv4) -> None:
    loaded = make_backbone("conv4", 1, 16, path).body.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in conv4.body.state_dict().items())


@pytest.mark.parametrize("outer", ["", "state_dict", "model", "params", "state", "model_state_dict", "net"])
@pytest.mark.parametrize("inner", ["", "state_dict", "model", "teacher", "student"])
def test_the_usual_keys(tmp_path, conv4, outer, inner):
    content = conv4.body.state_dict()
    for key in filter(None, (inner, outer)):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"step": torch.tensor(1)}}}}
    torch.save(content, tmp_path / "weights.pth")
    check_loads(tmp_path / "weights.pth", conv4)


def test_the_teacher_comes_before_the_student(tmp_path, conv4):
    student = {name: torch.zeros_like(value) for name, value in conv4.body.state_dict().items()}
    torch.save({"student": student, "teacher": conv4.body.state_dict()}, tmp_path / "weights.pth")
    check_loads(tmp_path / "weights.pth", conv4)


def test_a_key_without_tensors_is_passed_over(tmp_path, conv4):
    torch.save({"state_dict": {}, "model": "conv4", "net": conv4.body.state_dict()}, tmp_path / "weights.pth")
    check_loads(tmp_path / "weights.pth", conv4)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "encoder.", "model.", "_orig_mod.", "net.", "base_model.", "_orig_mod.module.", "model.net.backbone."],
)
def test_the_usual_prefixes(tmp_path, conv4, prefix):
    content = {f"{prefix}{name}": value for name, value in conv4.body.state_dict().items()}
    torch.save({**content, f"{prefix}fc.weight": torch.rand(5, 64)}, tmp_path / "weights.bin")
    check_loads(tmp_path / "weights.bin", conv4)


def test_safetensors_under_any_name(tmp_path, conv4):
    content = {f"model.{name}": value.contiguous() for name, value in conv4.body.state_dict().items()}
    for length in range(60):  # of the header: any first byte, also that of another kind
        save_file(content, tmp_path / "weights.bin", {"note": "x" * length * 5})
        assert read_weights(tmp_path / "weights.bin").keys() == content.keys()
    check_loads(tmp_path / "weights.bin", conv4)


def test_the_older_form_of_torch_save(tmp_path, conv4):
    torch.save(conv4.body.state_dict(), tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    check_loads(tmp_path / "weights.pt", conv4)


def test_arguments_and_numbers_of_numpy_beside_the_weights(tmp_path, conv4):
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "epoch": np.int64(3)}
    torch.save({**beside, "model": conv4.body.state_dict()}, tmp_path / "weights.pt")
    check_loads(tmp_path / "weights.pt", conv4)


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        read_weights(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), tmp_path / "script.pt")
    assert refusal(tmp_path / "script.pt").endswith(f"open it with torch.jit.load and save its weights with {SAVE}")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_module(tmp_path, zipped):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    said = refusal(tmp_path / "model.pt")
    assert "as a whole pickled module does: load it yourself if you trust it" in said
    assert said.endswith(SAVE)


def test_a_folder(tmp_path):
    assert refusal(tmp_path).endswith(f"is a folder: name the file of weights in it, or save one with {SAVE}")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "get the file with 'git lfs pull'"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "'git lfs pull'"),
        ("a.pth", b"\xef\xbb\xbf\n <!DOCTYPE html><html></html>", "is a web page and not a file of weights"),
        ("a.bin", b"<html><body>404</body></html>", "is a web page and not a file of weights"),
        ("a.h5", b"\x89HDF\r\n\x1a\n1234", f"is a file of Keras or HDF5: .*{SAVE[:10]}"),
        ("a.pb", b"\x08\x01", "is a file of TensorFlow"),
        ("model.ckpt.index", b"\x00", "is a file of TensorFlow"),
        ("a.onnx", b"\x08\x01", "is a file of ONNX"),
        ("flax_model.msgpack", b"\x82", "is a file of Flax"),
        ("a.gguf", b"GGUF\x03\x00", "is a GGUF file"),
        ("a.pth.gz", b"\x1f\x8b\x08\x00", "is a compressed archive: unpack it"),
        ("model.safetensors.index.json", json.dumps({"weight_map": {}}).encode(), "is JSON"),
        ("a.pkl", pickle.dumps({"model": 3}), "cannot be read as weights|holds no weights"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_weights(tmp_path / name)
    refusal(tmp_path / name)


def test_arrays_of_numpy(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    assert "is a NumPy array" in refusal(tmp_path / "a.npy")
    assert "holds NumPy arrays" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("member", "expected"),
    [("model.weights.h5", "is a file of Keras"), ("weights.pth", "is an archive of other files")],
)
def test_archives_of_others(tmp_path, member, expected):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"")
    assert expected in refusal(tmp_path / "a.zip")


def test_weights_that_do_not_fit_are_counted_and_the_first_are_named(tmp_path, conv4):
    torch.save(make_backbone("conv4-32", 1, 16).body.state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(InputError, match=r"24 of the 28 weights .* 0\.convolution\.weight .* and 21 more$"):
        make_backbone("conv4", 1, 16, tmp_path / "narrow.pt")
    with pytest.raises(InputError, match=r"lacks \d+ of the \d+ weights of resnet12: .* and \d+ more$"):
        make_backbone("resnet12", 1, 16, tmp_path / "narrow.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_lightning(tmp_path, conv4, zipped):
    optimizer = torch.optim.Adam(conv4.body.parameters())
    content = {
        "epoch": 3,
        "state_dict": {f"model.backbone.{name}": value for name, value in conv4.body.state_dict().items()}
        | {"model.head.weight": torch.rand(5, 64), "criterion.weight": torch.rand(5)},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    check_loads(tmp_path / "last.ckpt", conv4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, conv4, dtype):
    content = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for name, value in conv4.body.state_dict().items()
    }
    save_file(content, tmp_path / "weights.safetensors")
    loaded = make_backbone("conv4", 1, 16, tmp_path / "weights.safetensors").body.state_dict()
    assert all(torch.equal(value.to(loaded[name].dtype), loaded[name]) for name, value in content.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.to(torch.int8),
        lambda value: value.to(torch.complex64),
        lambda value: value.to("meta"),
        lambda value: value.to_sparse(),
        lambda value: value * float("nan"),
    ],
    ids=["integers", "complex", "meta", "sparse", "NaN"],
)
def test_what_is_no_plain_number_is_refused(tmp_path, conv4, change):
    weights = conv4.body.state_dict()
    torch.save({**weights, "0.convolution.weight": change(weights["0.convolution.weight"])}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"has 1 weights that are no plain .*: 0\.convolution\.weight; save"):
        make_backbone("conv4", 1, 16, tmp_path / "weights.pt")
