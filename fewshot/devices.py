"""The device of the arithmetic, and its precision."""

import contextlib
import ctypes
import os
import platform

import torch
from torch import Tensor

from episodes import ImageBank, InputError
from episodes.errors import unknown_name


def choose_device(name: str) -> torch.device:
    """The device for 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'; 'auto' is the first CUDA GPU, or the CPU without one.

    Raises InputError if the device is not here.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise unknown_name("device", name, ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps"))
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("mps was asked for, but PyTorch finds no GPU of Apple here: take --device cpu or auto")
        return torch.device("mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("CUDA was asked for, but PyTorch finds no GPU it can use here: take --device cpu or auto")
    if colon and int(number) >= torch.cuda.device_count():
        last = f"cuda:{torch.cuda.device_count() - 1}"
        raise InputError(f"{name} was asked for, but the last GPU here is {last}: take --device {last} or auto")
    if colon:
        return torch.device("cuda", int(number))
    return torch.device("cuda" if kind != "cpu" and torch.cuda.is_available() else "cpu")


def exact_device(device: torch.device) -> torch.device:
    """The device for float64 arithmetic on values of `device`: the CPU for a GPU of Apple, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def exact(values: Tensor) -> Tensor:
    """`values` in float64, on `exact_device` of their device."""
    return values.to(exact_device(values.device)).double()


def training_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype for 'auto', 'float32' or 'bfloat16': auto is bfloat16 if `device` computes in bfloat16 natively."""
    if setting == "auto":
        natives = {"cuda": torch.cuda.is_bf16_supported, "cpu": _cpu_has_bfloat16}
        native = device.type in natives and natives[device.type]()
        return torch.bfloat16 if native else torch.float32
    return getattr(torch, setting)


def prepare(device: torch.device) -> None:
    """Set the whole process to deterministic kernels, to this GPU if there are several and, on the CPU, to keep freed
    memory."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be repeatable
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler: two seconds
    # the filling finds faults in kernels, and takes a tenth of the time; PyTorch's types leave the setting out
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams, recordings and random numbers are those of the current GPU
    if device.type == "cpu":
        _keep_freed_memory()


def placed(bank: ImageBank, device: torch.device) -> ImageBank:
    """The bank with its images on `device` if they take at most half of its free memory, else the bank unchanged.

    Images that stay on the CPU are moved batch by batch (see ImageBank.batch).
    """
    if device.type == "cuda" and bank.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return bank
    return bank.to(device)


def describe(device: torch.device) -> str:
    """The device for a reader: 'CPU, 2 threads' or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "GPU of Apple (mps)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_has_bfloat16() -> bool:
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _keep_freed_memory() -> None:
    """Keep glibc from returning large blocks to the kernel after each use.

    A training step frees and takes the same large tensors again and again, and fresh pages are zeroed by the kernel:
    keeping them makes a Conv-4 step on the CPU about 1.7 times as fast. Without glibc nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_max, trim_threshold, top_pad = -4, -1, -2  # names of malloc.h
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(mmap_max, 0)
            library.mallopt(trim_threshold, 2**31 - 1)
            library.mallopt(top_pad, 2**28)
