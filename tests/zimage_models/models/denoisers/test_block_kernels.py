"""The Triton kernels compute what the plain functions do, by Triton's interpreter, and compile for GPUs."""

import importlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from zimage_models.models.denoisers import block_ops

if not find_spec("triton"):
    pytest.skip("needs triton, which comes with torch for GPUs", allow_module_level=True)

BATCH, LENGTH, WIDTH, EPS = 2, 5, 96, 1e-5
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6}


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """Start a process in which kernels run on the CPU: Triton decides that when it is imported."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=interpret) as pool:
        yield pool


def interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="module")
def compiler() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def block_kernels() -> Any:
    return importlib.import_module("zimage_models.models.denoisers.block_kernels")


def interpreted(name: str, *arguments: Any) -> Any:
    return getattr(block_kernels(), name)(*arguments)


def assert_as_plain(interpreter: ProcessPoolExecutor, name: str, *arguments: Any) -> None:
    found = interpreter.submit(interpreted, name, *arguments).result()
    expected = getattr(block_ops, name)(*arguments)
    if isinstance(expected, Tensor):
        found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            tolerance = TOLERANCE[other.dtype]
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (BATCH, 1), (BATCH, LENGTH)])
def test_residuals_and_norms(
    interpreter: ProcessPoolExecutor, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    x_BSD, output_BSD = random(2, BATCH, LENGTH, WIDTH, dtype=dtype)
    gate, scale = random(2, *shape, WIDTH, seed=1)
    assert_as_plain(interpreter, "scaled_norm", x_BSD, scale, EPS)
    for next_scale in (scale, random(1, 1, WIDTH, seed=2), None):
        assert_as_plain(interpreter, "gated_residual", x_BSD, output_BSD, gate, next_scale, EPS)


@dtypes
@pytest.mark.parametrize("batch", [1, BATCH])
def test_queries_and_keys(interpreter: ProcessPoolExecutor, dtype: torch.dtype, batch: int) -> None:
    qkv_BS3HC = random(BATCH, LENGTH, 3, 3, 32, dtype=dtype)
    weight_2C, rotary_BSC2 = random(2, 32, seed=1), random(batch, LENGTH, 16, 2, seed=2)
    assert_as_plain(interpreter, "rotated_queries_and_keys", qkv_BS3HC, weight_2C, rotary_BSC2, EPS)


@dtypes
def test_gates_of_a_feed_forward(interpreter: ProcessPoolExecutor, dtype: torch.dtype) -> None:
    assert_as_plain(interpreter, "gated_silu", random(BATCH, LENGTH, 2 * 24, dtype=dtype))


def num_compiled_bytes(capability: int) -> list[int]:
    import triton

    tokens = ("x", "output", "qkv", "hidden", "out", "sum_out", "norm_out", "queries", "keys")
    types = dict.fromkeys(tokens, "*bf16") | dict.fromkeys(("gate", "scale", "weight", "rotary"), "*fp32")
    types["eps"] = "fp32"
    sizes = {"WIDTH": 3840, "BLOCK": 4096, "HAS_NEXT": True, "HEADS": 30, "CHANNELS": 128, "ROWS": 32}
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    kernels = block_kernels()
    found = []
    for kernel in (kernels._scaled_norm, kernels._gated_residual, kernels._rotate, kernels._gated_silu):
        names = kernel.arg_names
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature={name: "constexpr" if name in sizes else types.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in sizes.items() if name in names},
        )
        found.append(len(triton.compile(source, target=target, options={"num_warps": 8}).asm["cubin"]))
    return found


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_at_the_released_sizes(compiler: ProcessPoolExecutor, capability: int) -> None:
    assert min(compiler.submit(num_compiled_bytes, capability).result()) > 0
