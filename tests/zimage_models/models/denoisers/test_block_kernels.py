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
from zimage_models.models.denoisers.fp8_linear import Fp8Rows

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
    """Run kernels by Triton's interpreter, with torch's rounding: all but the instruction that rounds.

    The interpreter's own cuts digits off for bfloat16, and loses a carry for float8.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    rounded = {"fp8e4nv": (torch.float8_e4m3fn, torch.uint8), "bf16": (torch.bfloat16, torch.uint16)}

    def as_torch_does(values: Any, before: Any, after: Any, mode: Any) -> Any:
        if after.name not in rounded:
            return convert(values, before, after, mode)
        dtype, bits = rounded[after.name]
        return torch.from_numpy(values).to(dtype).view(bits).numpy()

    interpreter._convert_float = as_torch_does


@pytest.fixture(scope="module")
def compiler() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def block_kernels() -> Any:
    return importlib.import_module("zimage_models.models.denoisers.block_kernels")


def interpreted(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(block_kernels(), name)(*arguments, **options)


def assert_as_plain(interpreter: ProcessPoolExecutor, name: str, *arguments: Any, **options: Any) -> None:
    found = interpreter.submit(interpreted, name, *arguments, **options).result()
    expected = getattr(block_ops, name)(*arguments, **options)
    if isinstance(expected, Tensor | Fp8Rows):
        found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        if isinstance(other, Fp8Rows):
            assert_as_plain_rows(one, other)
        elif other is not None:
            tolerance = TOLERANCE[other.dtype]
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def assert_as_plain_rows(found: Fp8Rows, expected: Fp8Rows) -> None:
    """Check that all values are the same but a few beside the middle of two, which are the next ones."""
    assert [one.shape for one in found] == [other.shape for other in expected]
    torch.testing.assert_close(found.scales, expected.scales, rtol=1e-5, atol=0)
    values, wanted = found.values.float(), expected.values.float()
    assert (values != wanted).float().mean() < 0.01
    torch.testing.assert_close(values, wanted, rtol=0.125, atol=2**-9)


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
    for fp8 in (False, True):
        assert_as_plain(interpreter, "scaled_norm", x_BSD, scale, EPS, fp8=fp8)
        for next_scale in (scale, random(1, 1, WIDTH, seed=2), None):
            assert_as_plain(interpreter, "gated_residual", x_BSD, output_BSD, gate, next_scale, EPS, fp8=fp8)


@dtypes
@pytest.mark.parametrize("batch", [1, BATCH])
def test_queries_and_keys(interpreter: ProcessPoolExecutor, dtype: torch.dtype, batch: int) -> None:
    qkv_BS3HC = random(BATCH, LENGTH, 3, 3, 32, dtype=dtype)
    weight_2C, rotary_BSC2 = random(2, 32, seed=1), random(batch, LENGTH, 16, 2, seed=2)
    assert_as_plain(interpreter, "rotated_queries_and_keys", qkv_BS3HC, weight_2C, rotary_BSC2, EPS)


@dtypes
def test_gates_of_a_feed_forward(interpreter: ProcessPoolExecutor, dtype: torch.dtype) -> None:
    for fp8 in (False, True):
        assert_as_plain(interpreter, "gated_silu", random(BATCH, LENGTH, 2 * 24, dtype=dtype), fp8=fp8)


@dtypes
def test_rounding_to_float8(interpreter: ProcessPoolExecutor, dtype: torch.dtype) -> None:
    x_BSK = random(BATCH, LENGTH, WIDTH, dtype=dtype)
    x_BSK[0, 0] = 0
    assert_as_plain(interpreter, "to_fp8", x_BSK)


def num_compiled_bytes(capability: int, is_fp8: bool) -> list[int]:
    import triton

    tokens = ("x", "output", "qkv", "hidden", "sum_out", "queries", "keys")
    factors = ("gate", "scale", "weight", "rotary", "out_scales")
    types = dict.fromkeys(tokens, "*bf16") | dict.fromkeys(factors, "*fp32")
    types |= dict.fromkeys(("out", "norm_out"), "*fp8e4nv" if is_fp8 else "*bf16") | {"eps": "fp32"}
    sizes = {"WIDTH": 3840, "BLOCK": 4096, "HAS_NEXT": True, "HEADS": 30, "CHANNELS": 128, "ROWS": 32}
    sizes["IS_FP8"] = is_fp8
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    kernels = block_kernels()
    found = []
    both = [kernels._scaled_norm, kernels._gated_residual, kernels._gated_silu]
    for kernel in [*both, kernels._to_fp8 if is_fp8 else kernels._rotate]:
        names = kernel.arg_names
        source = triton.compiler.ASTSource(
            fn=kernel,
            signature={name: "constexpr" if name in sizes else types.get(name, "i32") for name in names},
            constexprs={(names.index(name),): value for name, value in sizes.items() if name in names},
        )
        found.append(len(triton.compile(source, target=target, options={"num_warps": 8}).asm["cubin"]))
    return found


@pytest.mark.parametrize(("capability", "is_fp8"), [(80, False), (90, False), (89, True), (90, True)])
def test_kernels_compile_at_the_released_sizes(
    compiler: ProcessPoolExecutor, capability: int, is_fp8: bool
) -> None:
    assert min(compiler.submit(num_compiled_bytes, capability, is_fp8).result()) > 0
