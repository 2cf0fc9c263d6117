"""The device of the arithmetic, and its precision."""

import contextlib
import ctypes
import os
import platform

import torch

from episodes import ImageBank, InputError
from episodes.errors import unknown_name


def choose_device(name: str) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda': 'auto' is the GPU if there is one; InputError if 'cuda' has no GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("CUDA was asked for, but PyTorch finds no GPU it can use here: take --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def training_precision(setting: str, device: torch.device) -> torch.dtype:
    """The dtype for 'auto', 'float32' or 'bfloat16': auto is bfloat16 if `device` computes in bfloat16 natively."""
    if setting == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32
    return getattr(torch, setting)


def prepare(device: torch.device) -> None:
    """Set the whole process to deterministic kernels and, on the CPU, to keep freed memory."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be repeatable
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the filling finds faults in kernels, and takes a tenth of the time; PyTorch's types leave the setting out
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
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
