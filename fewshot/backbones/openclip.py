"""The models of open_clip as backbones: networks of images and texts that others pretrained, from local weights."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from episodes.errors import InputError, nearest_name, unknown_name
from fewshot.backbones.base import Backbone

_DIFFER = ("mean", "std", "interpolation", "quick_gelu")  # in which the published weights of one model differ


class OpenClipBackbone(Backbone):
    """The image network of a model of open_clip; `body` is the whole model, so that a file of its weights fits it.

    Images of any size are resized to the size that the model takes, and standardised by the model's means and
    deviations; grey images become colour images with three equal channels.
    """

    body: Any  # open_clip has no types

    def __init__(self, model: nn.Module, embedding_size: int, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__(model, embedding_size)
        self._tokenizer = tokenizer
        self._preprocessing: dict[str, Any] = self.body.visual.preprocess_cfg
        self.standardise_by(self._preprocessing["mean"], self._preprocessing["std"])

    def forward(self, images: Tensor) -> Tensor:
        with self.arithmetic(images.device):
            return self.body.encode_image(self.prepared(images)).float()

    def standardises(self, channels: int) -> bool:
        return True

    def prepared(self, images: Tensor) -> Tensor:
        """The images (B, C, H, W) as the model takes them, (B, 3, its height, its width)."""
        side, interpolation = self._preprocessing["size"], self._preprocessing["interpolation"]
        images = functional.interpolate(images.expand(-1, 3, -1, -1), side, mode=interpolation, antialias=True)
        return (images.clamp(0, 1) - self.mean) / self.deviation  # bicubic curves leave [0, 1]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (T, embedding_size) of T texts."""
        return self.body.encode_text(self._tokenizer(list(texts)).to(self.mean.device)).float()

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The tokens (T, L) of T texts, cut to the longest text; the last token of a text is its highest number."""
        tokens = self._tokenizer(list(texts)).to(self.mean.device)
        return tokens[:, : int(tokens.argmax(1).max()) + 1]

    def embed_tokens(self, tokens: Tensor, vectors: Tensor) -> Tensor:
        """Embeddings (T, embedding_size) of texts from their tokens (T, L) and the vectors (T, L, W) of the tokens.

        The vectors may be others than the model's own, such as learned ones. InputError if the model reads tokens in
        both directions or does not embed a text by its last token.
        """
        text, length = self._text, tokens.shape[1]
        pooling = getattr(text, "pool_type", getattr(self.body, "text_pool_type", "argmax"))
        if pooling != "argmax" or text.attn_mask is None:
            raise InputError("this model of open_clip does not read texts as CLIP does: take ViT-B-32 or one like it")
        states = vectors + text.positional_embedding[:length]
        states = text.ln_final(text.transformer(states, attn_mask=text.attn_mask[:length, :length]))
        last = states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(1)]
        projection = text.text_projection
        return projection(last) if isinstance(projection, nn.Linear) else last @ projection

    @property
    def token_vectors(self) -> nn.Embedding:
        """The vectors (vocabulary, W) of the model's tokens."""
        return self._text.token_embedding

    @property
    def _text(self) -> Any:
        return getattr(self.body, "text", self.body)  # models of newer configurations keep their text side apart

    @property
    def scale(self) -> Tensor:
        """The learned factor of the cosines of images and texts."""
        return self.body.logit_scale.exp()


def openclip_network(network: str) -> Callable[[int, int], OpenClipBackbone]:
    """A function that makes a model of open_clip with random weights; network: MODEL, or MODEL:WEIGHTS.

    WEIGHTS is open_clip's name for the published weights in the file; this name decides how images are prepared.
    Nothing is ever downloaded. Raises InputError for an unknown name, for a model whose published weights differ in
    the preparation if WEIGHTS is not given, and for a model with parts that would have to be downloaded.
    """
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            f"openclip:{network} needs the package open_clip_torch: pip install 'fewshot[openclip]'"
        ) from error
    model, _, weights = network.partition(":")
    if model not in open_clip.list_models():  # a name like hf-hub:NAME, which it would look for online, is not
        raise nearest_name("model of open_clip", model, open_clip.list_models())
    config = open_clip.get_model_config(model)
    if any(key.startswith("hf_") for key in config["text_cfg"]) or "multimodal_cfg" in config:
        raise InputError(
            f"openclip:{model} has parts that would be downloaded or that write texts: choose a plain model, such as"
            " ViT-B-32"
        )
    return functools.partial(_backbone, model, config["embed_dim"], _wanted(model, weights))


def _wanted(model: str, weights: str) -> dict[str, Any]:
    """The settings of a model's published weights: mean, std, interpolation, quick_gelu; {} if none are published."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights and weights not in tags:
        raise unknown_name(f"weights of openclip:{model}", weights, tags)
    configs = [open_clip.get_pretrained_cfg(model, tag) for tag in ([weights] if weights else tags)]
    found = [{key: config[key] for key in _DIFFER if key in config} for config in configs]
    if any(one != found[0] for one in found):
        raise InputError(
            f"the published weights of openclip:{model} want images or activations of different kinds: say which yours"
            f" are, as openclip:{model}:{tags[-1]} (there are {', '.join(tags)})"
        )
    return found[0] if found else {}


def _backbone(name: str, embedding_size: int, wanted: dict[str, Any], channels: int, size: int) -> OpenClipBackbone:
    import open_clip

    if channels not in (1, 3):
        raise InputError(f"openclip:{name} takes grey or colour images, not {channels} channels")
    preprocessing = {key: value for key, value in wanted.items() if key != "quick_gelu"}
    with _quiet():
        model = open_clip.create_model(
            name,
            pretrained_text=False,
            force_quick_gelu=wanted.get("quick_gelu", False),
            force_preprocess_cfg=preprocessing,
        )
        return OpenClipBackbone(model, embedding_size, open_clip.get_tokenizer(name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, messages to the root logger install no handler that prints them: open_clip warns of random weights, which
    the suite replaces afterwards."""
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
