"""Where a model runs, in which precision, and what makes a CPU fast.

torch is imported inside the functions, so that `--help` need not wait for it.
"""

import contextlib
import ctypes
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple


def best_device():
    """CUDA if there is one, else Apple's MPS, else the CPU. Of several GPUs, this process's own."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Precision(NamedTuple):
    """Of the products; the weights stay float32 everywhere."""

    bf16: bool = False  # by these names in transformers' TrainingArguments
    fp16: bool = False
    autocast: Any = None  # torch type of autocast, or None


def mixed_precision(device) -> Precision:
    """bfloat16 on the GPUs that have it, float16 with loss scaling on others, float32 elsewhere."""
    import torch

    if device.type != "cuda":
        return Precision()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision(bf16=True, autocast=torch.bfloat16)
    return Precision(fp16=True, autocast=torch.float16)  # a T4, for example


def tune_cpu():
    """Settings of this process that make a CPU step faster and leave float32 what it is.

    Where a GPU runs the models there is nothing to do.
    """
    import torch

    if best_device().type == "cpu":
        _keep_freed_memory()
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel():
            _multiply_with_onednn()


def _keep_freed_memory():
    """Ask glibc to keep freed memory for the next step instead of handing it back to the system.

    A training step frees and takes the same large tensors again; without this, page faults take
    up to a third of a CPU step. Does nothing where there is no glibc.
    """
    m_trim_threshold = -1  # malloc.h
    m_mmap_threshold = -3
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_threshold, 2**30)


def _made_by_intel():
    """Whether Intel made the processor: MKL then has code for it."""
    with contextlib.suppress(OSError):
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "Intel" in platform.processor()


def _multiply_with_onednn():
    """Have oneDNN multiply float32 matrices instead of MKL, where it does so in float32.

    MKL has AVX-512 code for Intel's processors only. On another one that has AVX-512, oneDNN
    multiplied 2.6 times as fast; where there is only AVX2, MKL is as fast or faster. PyTorch passes
    float32 to oneDNN only together with the permission to round to bfloat16, which oneDNN may use
    on processors that multiply bfloat16. So one product is compared with float64, and if it was
    rounded, the permission is taken back.
    """
    import torch

    matmul: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    a, b = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    error = (a @ b - (a.double() @ b.double())).abs().max()  # 3e-5 in float32, 0.1 in bfloat16
    if error > 1e-3:
        matmul.fp32_precision = before
