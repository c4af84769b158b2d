"""Products in float8: what they compute, and on which devices."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.models.denoisers.fp8_linear import FP8, Fp8Linear, to_fp8
from zimage_models.models.devices import check_fp8, resolve_device

NUM_TOKENS, NUM_INPUTS, NUM_OUTPUTS = 6, 48, 32
FORMAT = torch.arange(256, dtype=torch.uint8).view(FP8).double()
FINITE = FORMAT[FORMAT.isfinite()].unique()
"""All values that float8 e4m3 has, of which every other one from 0 is even."""
ODD = (torch.arange(len(FINITE)) - len(FINITE) // 2) % 2


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw rows of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 3, shape[-2])[:, None]
    return (torch.randn(*shape, generator=generator) * sizes).to(dtype)


def nearest(x: Tensor) -> Tensor:
    """Round each row to the nearest values of the format, times the row's scale; float64, by search."""
    scales = x.float().abs().max(dim=-1, keepdim=True).values / FINITE.max().float()
    scaled = (x.float() / scales).double()
    # In the middle of two, the even one.
    distances = (scaled[..., None] - FINITE).abs() + 1e-9 * ODD
    return FINITE[distances.argmin(dim=-1)] * scales.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_rounded_inputs_and_weights(dtype: torch.dtype) -> None:
    x, weight = random(2, NUM_TOKENS, NUM_INPUTS, dtype=dtype), random(NUM_OUTPUTS, NUM_INPUTS, seed=1)
    layer = Fp8Linear(torch.empty(0))
    layer.quantize(weight.to(dtype))
    found = layer(to_fp8(x))
    expected = nearest(x) @ nearest(weight.to(dtype)).T
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    sizes = nearest(x).abs() @ nearest(weight).abs().T
    assert ((found - expected).abs() <= tolerance * sizes).all()
    assert ((expected - x.double() @ weight.double().T).abs() > 3 * tolerance * sizes).any()


def test_rows_that_are_special() -> None:
    rows = to_fp8(torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e30, -1e30], [torch.nan, 1.0], [torch.inf, 1.0]]))
    back = rows.values.float() * rows.scales
    assert not back[:2].any()
    assert torch.equal(back[2], torch.tensor([1e30, -1e30]))
    # Not hidden: an image that goes wrong is an error.
    assert back[3:].isnan().any(dim=1).all()


@pytest.mark.parametrize(
    ("device_type", "capability", "dtype", "told"),
    [
        ("cuda", (8, 0), "auto", "capability 8.9 or more .*, not one of 8.0$"),
        ("cuda", (7, 5), "bfloat16", ", not one of 7.5$"),
        ("cuda", None, "auto", ", not cuda$"),
        ("mps", None, "auto", ", not mps$"),
        ("xpu", None, "auto", ", not xpu$"),
        ("cuda", (9, 0), "float32", "leave out the dtype float32$"),
    ],
)
def test_devices_without_units_for_it_are_refused(
    device_type: str, capability: tuple[int, int] | None, dtype: str, told: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^precision: fp8 .*{told}") as refused:
        check_fp8(device_type, capability, dtype=dtype)
    assert refused.value.field == "precision"


def test_an_engine_asks_its_device() -> None:
    with pytest.raises(InvalidRequest, match=r"^precision: fp8 needs .*, not meta$"):
        resolve_device(EngineConfig(precision="fp8", device="meta"))
    assert resolve_device(EngineConfig(precision="bf16", device="meta")).type == "meta"


@pytest.mark.parametrize(
    ("device_type", "capability", "dtype"),
    [
        ("cpu", None, "auto"),
        ("cpu", None, "float32"),
        ("cuda", (8, 9), "auto"),
        ("cuda", (9, 0), "bfloat16"),
        ("cuda", (12, 0), "auto"),
    ],
)
def test_other_devices_are_not(device_type: str, capability: tuple[int, int] | None, dtype: str) -> None:
    check_fp8(device_type, capability, dtype=dtype)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"precision": "int8"}, "^precision: 'int8' is not one of auto, bf16, fp8$"),
        ({"precision": "bf16", "dtype": "float32"}, "^precision: bf16 is .* dtype given is float32$"),
    ],
)
def test_configs_are_checked(values: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as refused:
        EngineConfig(**values)  # type: ignore[arg-type]
    assert refused.value.field == "precision"


def test_a_gpus_product_takes_what_it_is_given() -> None:
    with FakeTensorMode():  # checks arguments and computes nothing
        layer = Fp8Linear(torch.empty(0))
        layer.quantize(torch.empty(10240, 3840, dtype=torch.bfloat16, device="cuda"))
        made = layer(to_fp8(torch.empty(2, 65, 3840, dtype=torch.bfloat16, device="cuda")))
    assert (made.shape, made.dtype, made.device.type) == ((2, 65, 10240), torch.bfloat16, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [32, 1088, 4160])
def test_a_gpu_computes_what_a_cpu_does(num_tokens: int) -> None:
    x, weight = random(1, num_tokens, 3840, dtype=torch.bfloat16), random(10240, 3840, seed=1)
    made = []
    for device in ("cpu", "cuda"):
        layer = Fp8Linear(torch.empty(0))
        layer.quantize(weight.to(device, torch.bfloat16))
        made.append(layer(to_fp8(x.to(device))).cpu().float())
    torch.testing.assert_close(made[1], made[0], rtol=0.02, atol=float(0.02 * made[0].std()))
