"""How many models of a run train side by side, and with how many threads each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from episodes import FeatureBank, ImageBank
from fewshot.plan import Planned

Asked = int | Literal["auto"] | None


class Share(NamedTuple):
    """workers: how many models run side by side; pinned: whether each has one thread of the CPU."""

    workers: int
    pinned: bool

    @property
    def told(self) -> str:
        """How the work is shared, for a reader: ', 2 models side by side'; '' if it is not."""
        return f", {self.workers} models side by side" if self.workers > 1 else ""


def share_of(asked: Asked, models: Sequence[Planned], banks: Mapping[str, ImageBank], device: torch.device) -> Share:
    """How the models of a run share this machine.

    asked  a number of workers; None for one with all threads; 'auto' for as many as PyTorch has threads for, if several
           models train on images on the CPU, and else for one with all threads

    A training with two threads rounds otherwise than one with one thread. So the threads of a model are decided by the
    models that the run names and not by those that are left to run, and with workers each model has one thread: then
    its rows do not depend on the number of workers.
    """
    if asked is None:
        return Share(1, False)
    if asked != "auto":
        return Share(min(asked, len(models)), device.type == "cpu")
    images = "train" in banks and not isinstance(banks["train"], FeatureBank)
    trained = sum(model.spec.settings.steps > 0 for model in models)
    if device.type != "cpu" or not images or trained < 2:
        return Share(1, False)
    return Share(min(torch.get_num_threads(), len(models)), True)


@contextlib.contextmanager
def threads_of(share: Share) -> Iterator[None]:
    """Inside, this process computes with one thread if the share says so."""
    if not share.pinned:
        yield
        return
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def devices_of(device: torch.device, workers: int) -> list[str]:
    """The device of each worker: several GPUs in turn, unless `device` is one of them; workers may share a GPU."""
    if device.type == "cuda" and device.index is None:
        return [f"cuda:{worker % torch.cuda.device_count()}" for worker in range(workers)]
    return [str(device)] * workers
