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
    """In which type a run multiplies; its weights are float32 everywhere, and so is the rollout.

    | device | rollout, reward model | policy against reference | TRL's loss |
    |---|---|---|---|
    | NVIDIA from Ampere on (A100, RTX 30, L4, H100 …) | TF32 | TF32 | bfloat16 |
    | older ones (T4, V100) | float32 | float16 | float16, its gradient scaled |
    | CPU, Apple's MPS | float32 | float32 | float32 |

    TF32 has float32's exponent and ten bits of its mantissa. On an H200 it was 0.004 nats a
    completion of 48 tokens off float32, bfloat16 0.097, as large as a KL at the beginning of a run;
    and for a model of GPT-2's size it is about as fast. So policy and reference can be compared in
    it, and the log-probabilities that the rollout knows be used again. A loss only needs the
    direction of its gradient. Where there is no TF32, float32 is slow; then both are asked under
    autocast, so that equal models give equal numbers. That holds for train.py and its validations;
    evaluate.py and play.py know no autocast, and take float32 where the table says float16.
    """

    loss: Any = None  # torch type of the autocast, or None
    scores: Any = None  # likewise, of both models where they are compared


def mixed_precision(device) -> Precision:
    """The line of `Precision` that holds for a device."""
    import torch

    if device.type != "cuda":
        return Precision()
    if _has_tf32():
        return Precision(loss=torch.bfloat16)
    return Precision(loss=torch.float16, scores=torch.float16)


def _has_tf32():
    """Whether the GPU has TF32: it came with bfloat16."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def tune_device():
    """Settings of this process that make a step faster.

    On a CPU they leave float32 what it is; on a GPU that has TF32, products are made in it.
    """
    import torch

    kind = best_device().type
    if kind == "cuda" and _has_tf32():
        torch.backends.cuda.matmul.allow_tf32 = True  # the one switch that 2.11 and 2.13 agree on
    if kind == "cpu":
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
