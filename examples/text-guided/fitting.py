"""One loop that trains the networks of this example, and goes on where a killed training stopped."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import trange

from episodes import ImageBank
from episodes.batches import ShuffledBatches
from fewshot import checkpoints

_WARM = 50  # first steps, in which the rate rises
_SAVE_EVERY = 50  # steps

Loss = Callable[[Tensor, torch.Generator], Tensor]


def fit(
    module: nn.Module, loss: Loss, bank: ImageBank, path: Path, steps: int, batch: int, rate: float, keep: float = 0.99
) -> None:
    """Trains `module` by AdamW, writes it to `path`, and leaves it with the moving average of its weights.

    loss   of the images of `bank` with these numbers (B,); it draws random numbers from its generator alone
    steps  of `batch` images in all
    keep   share of the moving average of the weights that a step leaves as it was

    The batches and random numbers of a step depend on its number alone, so that a training that was killed goes on from
    `path` as if nothing had happened, and one that has ended goes on to more steps.
    """
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(keep), use_buffers=True)
    optimizer = AdamW(module.parameters(), rate, weight_decay=0.01)
    parts = {"module": module, "average": average, "optimizer": optimizer}
    first = _restore(parts, path) if path.exists() else 0
    batches = ShuffledBatches(batch).fitted(bank).following(bank, seed=0, step=first)
    module.train()
    for step in trange(first, steps, initial=first, total=steps, desc=path.stem, unit="step", disable=None):
        value = loss(next(batches), torch.Generator().manual_seed(step))
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / _WARM)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(module)
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            about = {"step": step + 1, "loss": value.item()}
            checkpoints.save(path, {"about": about, **{name: part.state_dict() for name, part in parts.items()}})
    module.load_state_dict(average.module.state_dict())
    module.eval()


def restore(module: nn.Module, path: Path) -> None:
    """Gives `module` the average weights that `fit` wrote to `path`; InputError if they are of another module."""
    content = checkpoints.load(path)
    average = AveragedModel(module)
    checkpoints.restore(average, {"learner": content.get("average")}, path)
    module.load_state_dict(average.module.state_dict())
    module.eval()


def _restore(parts: dict[str, nn.Module | AdamW], path: Path) -> int:
    """Gives the parts of a training their state of `path`: the number of steps that it had made."""
    content = checkpoints.load(path)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    return content["about"]["step"]
