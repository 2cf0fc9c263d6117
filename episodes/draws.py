"""Random numbers from a counter, not from a state: each a pure function of a key, a slot and a step.

SplitMix64's output function (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") of a key and
a counter, in wrapping 64-bit integer arithmetic. So the same numbers come out on every device, in any batch size, in
any order, on any shard.
"""

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """A 64-bit word as the int64 of the same bits."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_SLOT = 1 << 16  # counters a slot may use; each gives two draws


def mix(words: Tensor) -> Tensor:
    """SplitMix64's output function, elementwise on int64 tensors; a bijection of 64-bit words."""
    words = words ^ ((words >> 30) & (1 << 34) - 1)  # the mask makes the arithmetic shift a logical one
    words *= _MIX_1
    words ^= (words >> 27) & (1 << 37) - 1
    words *= _MIX_2
    words ^= (words >> 31) & (1 << 33) - 1
    return words


def stream(seed: int, numbers: Tensor) -> Tensor:
    """One key for each of `numbers` (int64, any shape): the start of that number's own stream of random words."""
    key = mix(torch.tensor(_signed(seed), device=numbers.device))
    return mix(key + numbers * _GOLDEN)


def words(keys: Tensor, purpose: int, count: int) -> Tensor:
    """`count` random 64-bit words (E, count) for each of `keys` (E,), others for each purpose.

    Learners use these words to draw numbers in an episode (see Episodes.keys). No episode is drawn from these words.
    """
    own = stream(purpose, keys)
    return mix(own[:, None] + torch.arange(1, count + 1, device=keys.device) * _GOLDEN)


def slot_words(keys: Tensor, slots: Tensor | int, count: int) -> Tensor:
    """The first `count` random 64-bit words (count, B) of a slot for each of `keys` (B,).

    A slot has a purpose: 0 draws the classes of an episode, 1 and above the images of its classes, and slots below 0
    say how many classes and images a kind of episodes draws.
    """
    steps = torch.arange(count, device=keys.device)[:, None]
    return mix(keys + (steps + (slots * _SLOT + 1)) * _GOLDEN)


def uniform(words: Tensor) -> Tensor:
    """Numbers in (0, 1), float64, from the upper 52 bits of random words; exact, so the same on every device."""
    return (((words >> 12) & (1 << 52) - 1).double() + 0.5) / 2**52


def below(words: Tensor, bounds: Tensor | int) -> Tensor:
    """Whole numbers from 0 to `bounds` - 1, of less than 32 bits, from the upper 32 bits of random words."""
    return ((words >> 32) & 0xFFFFFFFF) * bounds >> 32


def draw(keys: Tensor, slots: Tensor | int, sizes: Tensor | int, largest: int, count: int) -> Tensor:
    """`count` different positions below `sizes`, of which none is above `largest`, for each key: (count, B) from keys,
    slots and sizes of shape (B,).

    A Fisher-Yates shuffle cut after `count` steps: step j swaps position j with position r_j, uniform in
    [j, size). Instead of a table of all positions it keeps the r_j, and finds what stands at r_j by following the
    earlier swaps backwards.
    """
    words = slot_words(keys, slots, (count + 1) // 2)
    steps = torch.arange(count, device=keys.device)[:, None]
    targets = torch.empty((count, *keys.shape), dtype=torch.int64, device=keys.device)
    targets[0::2] = (words >> 32) & 0xFFFFFFFF
    targets[1::2] = words[: count // 2] & 0xFFFFFFFF
    targets *= sizes - steps
    targets >>= 32
    targets += steps
    # as narrow as positions can be: the loop below is bound by memory traffic
    swapped = targets.to(torch.int16 if largest <= 2**15 else torch.int32)
    moves = steps.to(swapped.dtype) - swapped
    positions, hits = swapped.clone(), torch.empty_like(swapped)
    for j in range(count - 2, -1, -1):  # later[later == swapped[j]] = j, in arithmetic that the CPU does in vectors
        later = positions[j + 1 :]
        hit = torch.eq(later, swapped[j], out=hits[j + 1 :])
        later += hit.mul_(moves[j])
    return positions
