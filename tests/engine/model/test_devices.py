import subprocess
import sys

import pytest
import torch

from engine.common import ROOT
from engine.model import devices


def test_tuned_cpu_multiplies_in_float32():
    """Every kind of product of a training step: forward, both of backward, batched, one row."""
    code = """
import torch
from engine.model.devices import tune_device
tune_device()
for rows, inner, columns in [(64, 256, 768), (2368, 1024, 256), (256, 2368, 1024), (1, 768, 99)]:
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    exact = a.double() @ b.double()
    worst = 1e-6 * (a.abs().double() @ b.abs().double()).max()
    for product in (a @ b, a @ b.t().contiguous().t(), torch.addmm(torch.zeros(columns), a, b),
                    torch.stack([a, a]) @ torch.stack([b, b])):
        assert (product - exact).abs().max() < worst, (rows, inner, columns)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("capability", "intel", "expected"),
    [("AVX512", False, True), ("AVX512", True, False), ("AVX2", False, False)],
)
def test_onednn_multiplies_where_mkl_has_no_code_for_avx512(
    monkeypatch, capability, intel, expected
):
    called = []
    monkeypatch.setattr(devices, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(devices, "_made_by_intel", lambda: intel)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(devices, "_multiply_with_onednn", lambda: called.append(True))
    devices.tune_device()
    assert bool(called) == expected


@pytest.mark.parametrize(
    ("device", "tf32", "loss", "scores"),
    [
        ("cuda", True, torch.bfloat16, None),
        ("cuda", False, torch.float16, torch.float16),
        ("cpu", False, None, None),
        ("mps", False, None, None),
    ],
)
def test_what_runs_in_which_type(monkeypatch, device, tf32, loss, scores):
    monkeypatch.setattr(devices, "_has_tf32", lambda: tf32)
    assert devices.mixed_precision(torch.device(device)) == (loss, scores)
    monkeypatch.setattr(devices, "best_device", lambda: torch.device(device))
    monkeypatch.setattr(devices, "_keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    products = torch.backends.cuda.matmul
    assert not products.allow_tf32
    try:
        devices.tune_device()
        assert products.allow_tf32 == tf32
    finally:
        products.allow_tf32 = False


@pytest.mark.parametrize(("rounds", "kept"), [(False, "bf16"), (True, "none")])
def test_a_cpu_that_would_round_is_left_alone(monkeypatch, rounds, kept):
    setting, multiply = torch.backends.mkldnn.matmul, torch.Tensor.matmul

    def product(a, b):
        if a.dtype == torch.float64:
            return multiply(a, b)
        if rounds and setting.fp32_precision == "bf16":
            a, b = a.bfloat16(), b.bfloat16()
        return multiply(a.double(), b.double()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    try:
        devices._multiply_with_onednn()
        assert setting.fp32_precision == kept
    finally:
        setting.fp32_precision = "none"


@pytest.mark.gpu
def test_a_gpu_with_tf32_multiplies_in_it():
    """Ten bits of mantissa: relative errors of 1e-4 to 1e-3, where float32 has 1e-6."""
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    a, b = torch.randn(2, 512, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    exact = a.double() @ b.double()
    try:
        devices.tune_device()
        error = ((a @ b - exact).abs().mean() / exact.abs().mean()).item()
    finally:
        products.allow_tf32 = before
    assert (1e-5 if devices._has_tf32() else 0) <= error < 2e-3
