"""NGramEncoder: texts to embeddings without a vocabulary, by their words and the letters in them."""

import functools
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LONGEST = 4  # letters of an n-gram, the borders of its word counted


class TextEncoder(nn.Module):
    """What `clip` needs of an encoder of texts: numbers that a text becomes once, and embeddings of these numbers."""

    _kept: tuple[tuple[str, ...], Tensor] | None = None

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """What stands for each of T texts, (T, L)."""
        raise NotImplementedError

    def kept_numbers(self, texts: tuple[str, ...]) -> Tensor:
        """`numbers` of the same texts in every step of a training, such as the base classes': they are made once."""
        if self._kept is None or self._kept[0] is not texts:
            self._kept = texts, self.numbers(texts)
        return self._kept[1]


class NGramEncoder(TextEncoder):
    """A text is the bag of its words and of their n-grams of letters, after fastText (Bojanowski et al. 2017, 3.2).

    Each word and n-gram is hashed into one of `buckets` rows of a table of width `size`, so any text has an embedding,
    a pure function of its letters. Two texts that share a word, such as a letter's name, share its rows. All rows start
    at zero: a word that no training text contains adds nothing, instead of noise.
    """

    def __init__(self, size: int, buckets: int = 8192) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.Embedding(1 + buckets, size, padding_idx=0)
        nn.init.zeros_(self.table.weight)

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """The rows of each text, (T, L) int64, padded with zeros at the end of shorter texts."""
        rows = [torch.tensor(_rows(text, self.buckets)) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.table.weight.device)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embeddings (T, size) of `numbers` (T, L): the mean of a text's rows."""
        present = (numbers > 0).sum(1, keepdim=True).clamp_min(1)
        return self.table(numbers).sum(1) / present


@functools.lru_cache(maxsize=1 << 16)
def _rows(text: str, buckets: int) -> tuple[int, ...]:
    """The rows of one text: crc32, unlike Python's hash, is the same in every process."""
    return tuple(1 + zlib.crc32(gram.encode()) % buckets for gram in ngrams(text))


def ngrams(text: str) -> list[str]:
    """The words of a text, and the n-grams of each between its borders: '<an>' has '<a', 'an', 'n>', '<an' and so on.

    Upper and lower case are the same. A text without a word has one n-gram, the borders '<>'.
    """
    found = []
    for word in text.casefold().split() or [""]:
        bounded = f"<{word}>"
        found.append(bounded)
        found += [
            bounded[start : start + length]
            for length in range(2, _LONGEST + 1)
            for start in range(len(bounded) - length + 1)
            if length < len(bounded)
        ]
    return found
