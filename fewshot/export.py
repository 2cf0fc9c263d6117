"""The embedding network of a trained model as a file that other programs read: safetensors or ONNX."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from episodes.errors import InputError
from fewshot.files import replacing, writing
from fewshot.learners.base import Learner
from fewshot.models import ModelSpec

_LARGEST = 2**31 - 2**20  # bytes of weights: a file of ONNX has less than 2 GiB


class EmbeddingNetwork(nn.Module):
    """Images (B, C, H, W) in [0, 1] to the embeddings (B, D) of a learner in eval mode, standardisation and all."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.learner.embed(images)


def export(learner: Learner, spec: ModelSpec, kind: str, path: Path) -> None:
    """Write the embedding network of `learner`, which `spec` describes, to the file `path`.

    kind: a key of KINDS.
        onnx         a network 'images' (B, C, H, W) float32 in [0, 1] -> 'embeddings' (B, D), for any B
        safetensors  the learner's weights by their names; those of the backbone begin with 'backbone.body.'

    The metadata of both have JSON under two names: 'fewshot', the fields of the ModelSpec, and 'standardisation', the
    means and deviations of red, green and blue by which the network standardises its images, or null. InputError if
    the file cannot be written, if a package is missing, or if ONNX cannot express the network.
    """
    about = {"fewshot": spec.model_dump_json(), "standardisation": json.dumps(_standardisation(learner, spec))}
    content = KINDS[kind](learner, spec, about)
    with writing(path.parent), replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _safetensors(learner: Learner, spec: ModelSpec, about: dict[str, str]) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise _lacking(error) from error
    # each of its own memory and in rows, as the format needs
    return save({name: value.cpu().contiguous().clone() for name, value in learner.state_dict().items()}, about)


def _onnx(learner: Learner, spec: ModelSpec, about: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401, without which torch.onnx cannot work
    except ImportError as error:
        raise _lacking(error) from error
    if sum(value.nbytes for value in learner.state_dict().values()) > _LARGEST:
        raise InputError(f"{spec.label} is too large for a file of ONNX, 2 GiB: take --to safetensors")
    images = torch.rand(2, spec.channels, spec.size, spec.size)
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what torch.onnx itself uses
        try:
            program = torch.onnx.export(
                EmbeddingNetwork(learner),
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["images"],
                output_names=["embeddings"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(f"torch.onnx cannot express the network of {spec.label}: take --to safetensors") from error
    assert program is not None  # with dynamo there is one
    model = program.model_proto
    onnx.helper.set_model_props(model, about)
    return model.SerializeToString()


KINDS: dict[str, Callable[[Learner, ModelSpec, dict[str, str]], bytes]] = {"safetensors": _safetensors, "onnx": _onnx}


def _standardisation(learner: Learner, spec: ModelSpec) -> dict[str, list[float]] | None:
    backbone = learner.backbone
    if not backbone.standardises(spec.channels):
        return None
    return {"mean": backbone.mean.flatten().tolist(), "deviation": backbone.deviation.flatten().tolist()}


def _lacking(error: ImportError) -> InputError:
    return InputError(f"an export needs the package {error.name}: pip install 'fewshot[export]'")
