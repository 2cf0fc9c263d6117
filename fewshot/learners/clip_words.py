"""clip on word vectors from elsewhere: the names of classes by static embeddings that were learned from texts."""

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from episodes import InputError
from fewshot.backbones.base import Backbone
from fewshot.learners.base import Traits
from fewshot.learners.clip import CLIP
from fewshot.learners.registry import register
from fewshot.learners.text_encoder import TextEncoder

WIDTH = 256  # of the embeddings
_TRAITS = Traits(text=True, needs=("wordllama",), trained_on="wordllama", paper="Radford et al. 2021")


@register("clip-words")
class WordCLIP(CLIP):
    """`clip` whose texts are static embeddings of the package wordllama, which know synonyms from the web's texts.

    The embedding of a text is the mean of the vectors of its tokens, as wordllama has it: 256 numbers a token, taken
    from large language models. The vectors are fixed; a linear projection of them is trained with the network for
    images. The variants are those of `clip`. Rows are marked, because nobody says which names the texts behind the
    vectors held.
    """

    variants: ClassVar = {
        "zero-shot": dataclasses.replace(_TRAITS, sees_support=False),
        "mixed": _TRAITS,
        "few-shot": _TRAITS,
    }

    def __init__(
        self, backbone: Backbone, classes: int, variant: str = "", size: int = 128, text_weight: float = 0.1
    ) -> None:
        super().__init__(backbone, classes, variant, size, text_weight)
        self.text_encoder = StaticEncoder()
        self.text_projection = nn.Linear(WIDTH, size)


class StaticEncoder(TextEncoder):
    """Texts to the means of their tokens' vectors, in the form of NGramEncoder; it has no weights of its own."""

    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(0), persistent=False)  # moves with the learner to its device

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of T texts, (T, 256)."""
        return torch.stack([_embedding(text) for text in texts]).to(self.place.device)

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers


@functools.lru_cache(maxsize=1 << 16)
def _embedding(text: str) -> Tensor:
    tokenizer, table = _wordllama()
    tokens = tokenizer.encode(text.casefold(), add_special_tokens=False).ids
    return table[tokens].mean(0) if tokens else torch.zeros(WIDTH)


@functools.cache
def _wordllama() -> tuple[Any, Tensor]:
    """The tokenizer and the vectors (tokens, 256) that the package has in it; its own loader may download others."""
    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise InputError("the word vectors are those of the package wordllama: pip install 'fewshot[words]'")
    import tokenizers
    from safetensors.torch import load_file

    folder = Path(found.origin).parent
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        table = load_file(folder / "weights" / f"l2_supercat_{WIDTH}.safetensors")["embedding.weight"]
    except Exception as error:  # tokenizers raises no narrower class
        raise InputError(
            f"the word vectors in {folder} cannot be read ({error}): install the package wordllama again"
        ) from error
    return tokenizer, table.float()
