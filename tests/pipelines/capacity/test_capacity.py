"""Work, speed and fleets, against the facts of the released model and published figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu.released_shape import RELEASED, TINY
from benchmarks.gpu.released_shape import decode_flops as counted_decode_flops
from pipelines.capacity.accelerators import ACCELERATORS, Evidence
from pipelines.capacity.cluster_file import Cluster, NodeType, any_machine, read_cluster
from pipelines.capacity.engine_speed import engine_memory_gb, estimate_engine, num_sums, padding, sum_bytes
from pipelines.capacity.fleet import estimate_fleet
from pipelines.capacity.fleet_estimate import Assumptions, FleetEstimate
from pipelines.capacity.image_work import ImageKind, decode_flops, image_work
from pipelines.capacity.measured import CapacityTable, read_table
from pipelines.capacity.model_shape import RELEASED_SHAPE, VaeShape, read_model_shape
from pipelines.capacity.workload import Workload
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import KNOWN_MODELS

HOUR = 3600.0
TURBO = ImageKind(height=1024, width=1024, num_inference_steps=8, is_guided=False, prompt_tokens=128)
H100 = ACCELERATORS["H100"]
MILLION = Workload(shape=RELEASED_SHAPE, kinds={TURBO: 1_000_000})
HEAD = "available_node_types:\n  head: {resources: {CPU: 8, GPU: 0}, max_workers: 0}\n"


def node_type(name: str = "h100", **changes: object) -> NodeType:
    values: dict[str, object] = {
        "instance_type": "p5.48xlarge",
        "accelerator": "H100",
        "num_accelerators": 8,
        "max_nodes": 20,
        "is_spot": False,
        "usd_per_hour": 55.04,
    }
    return NodeType(name=name, **{**values, **changes})  # type: ignore[arg-type]


def plan(*node_types: NodeType, hours: float | None = 8, **options: object) -> FleetEstimate:
    cluster = Cluster(node_types=node_types, max_nodes=None, idle_s=0)
    deadline_s = None if hours is None else hours * HOUR
    return estimate_fleet(MILLION, cluster, CapacityTable(), deadline_s=deadline_s, **options)  # type: ignore[arg-type]


# facts/zimage.md section 1, by torch's own counter on the released configuration.
@pytest.mark.parametrize(
    ("width", "height", "caption", "sequence", "tflops"),
    [
        (512, 512, 64, 1088, 12.9),
        (768, 768, 64, 2368, 29.6),
        (1024, 1024, 64, 4160, 55.6),
        (1024, 1024, 128, 4224, 56.6),
        (1024, 1024, 256, 4352, 58.5),
        (1024, 1024, 512, 4608, 62.5),
        (1280, 720, 128, 3744, 49.3),
        (1536, 1536, 128, 9344, 148.7),
        (2048, 2048, 128, 16512, 320.9),
    ],
)
def test_forward_is_counted_as_torch_counts_it(
    width: int, height: int, caption: int, sequence: int, tflops: float
) -> None:
    kind = replace(TURBO, width=width, height=height, prompt_tokens=caption)
    work = image_work(RELEASED_SHAPE, kind)
    assert work.sequence == sequence
    assert work.forward_flops / 1e12 == pytest.approx(tflops, rel=0.01)


@pytest.mark.parametrize("side", [256, 512])
def test_decoder_is_counted_as_torch_counts_it(side: int) -> None:
    assert decode_flops(RELEASED_SHAPE.vae, side, side) == counted_decode_flops(RELEASED, side, side)
    tiny = VaeShape(channels=TINY["vae"]["block_out_channels"], layers_per_block=1, has_middle_attention=True)
    assert decode_flops(tiny, side, side) == counted_decode_flops(TINY, side, side)


def test_guided_base_image_is_over_twelve_turbo_images() -> None:
    base = replace(TURBO, num_inference_steps=50, is_guided=True)
    turbo = image_work(RELEASED_SHAPE, TURBO)
    assert (turbo.forwards, image_work(RELEASED_SHAPE, base).forwards) == (8, 100)
    assert turbo.forwards * turbo.forward_flops / 1e12 == pytest.approx(453, rel=0.01)
    assert image_work(RELEASED_SHAPE, base).flops / turbo.flops == pytest.approx(12.2, rel=0.01)


def test_released_transformer_has_the_released_number_of_parameters() -> None:
    assert RELEASED_SHAPE.transformer.num_parameters == 6_154_908_736


def test_shape_of_an_embedded_checkpoint_is_read() -> None:
    directory = KNOWN_MODELS["tiny-zimage-turbo"].directory
    assert directory is not None
    shape = read_model_shape(directory)
    assert (shape.transformer.dim, shape.transformer.num_layers, shape.vae.scale) == (256, 4, 4)


def test_tensor_parallel_engine_sums_68_times_and_moves_2_2_gb() -> None:
    transformer = RELEASED_SHAPE.transformer
    assert num_sums(transformer) == 68
    assert num_sums(transformer) * sum_bytes(transformer, 4160) / 1e9 == pytest.approx(2.2, rel=0.02)


@pytest.mark.parametrize(
    ("degree", "factor"), [(1, 1.0), (2, 1.0), (5, 1.0), (10, 1.0), (4, 1.0222), (8, 1.0222)]
)
def test_padded_heads_are_paid_for(degree: int, factor: float) -> None:
    assert padding(RELEASED_SHAPE.transformer, degree) == pytest.approx(factor, abs=1e-4)


# facts/peers.md section 4: other engines' whole images; within 10 %.
@pytest.mark.parametrize(
    ("accelerator", "side", "steps", "is_guided", "degree", "seconds"),
    [
        ("H100", 1024, 9, False, 1, 0.906),
        ("H100", 2048, 9, False, 1, 5.38),
        ("H100", 2048, 9, False, 2, 3.74),
        ("L20", 1024, 9, False, 1, 6.71),
        ("L20", 1024, 20, True, 1, 26.9),
        ("L20", 1024, 20, True, 2, 21.1),
        ("RTX-5090", 1024, 9, False, 1, 2.492),
    ],
)
def test_estimates_meet_published_times(
    accelerator: str, side: int, steps: int, is_guided: bool, degree: int, seconds: float
) -> None:
    kind = ImageKind(
        height=side, width=side, num_inference_steps=steps, is_guided=is_guided, prompt_tokens=64
    )
    work = image_work(RELEASED_SHAPE, kind)
    engine = estimate_engine(
        RELEASED_SHAPE, work, ACCELERATORS[accelerator], degree=degree, pixels=side * side
    )
    assert engine.image_s == pytest.approx(seconds, rel=0.1)


def test_larger_engines_are_quicker_but_make_fewer_images() -> None:
    times = [MILLION.engine(H100, degree).image_s for degree in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    per_gpu = [1 / (degree * time) for degree, time in zip((1, 2, 4, 8), times, strict=True)]
    assert per_gpu == sorted(per_gpu, reverse=True)


def test_memory_of_an_engine() -> None:
    alone = engine_memory_gb(RELEASED_SHAPE, degree=1, pixels=0)
    assert alone == pytest.approx(20.5, abs=0.1)
    # vllm-omni #735: 24.6 -> 19.2 GiB on two.
    assert alone - engine_memory_gb(RELEASED_SHAPE, degree=2, pixels=0) == pytest.approx(5.8, abs=0.4)


def test_engine_is_one_gpu_unless_memory_or_latency_ask_for_more() -> None:
    assert plan(node_type()).chosen[0].engine.degree == 1
    small = node_type(accelerator="A10G", num_accelerators=4, max_nodes=None)
    [option] = plan(small).chosen
    assert (option.engine.degree, option.engines_per_node) == (2, 2)
    assert option.engine_why.startswith("memory")
    [option] = plan(node_type(), max_latency_s=0.7).chosen
    assert option.engine.degree == 2
    assert option.engine_why.startswith("latency")
    assert plan(node_type(), degree=4).chosen[0].engine.degree == 4


def test_what_cannot_run_says_why() -> None:
    too_small = node_type(accelerator="A10G", num_accelerators=1)
    assert plan(too_small).options[0].problem == "needs 24.5 GB on one GPU; A10G has 24.1"
    assert plan(too_small).chosen == ()
    assert "0.1 s" in str(plan(node_type(), max_latency_s=0.1).options[0].problem)
    assert "--tp 10" in str(plan(node_type(), degree=10).options[0].problem)


def test_a_cluster_that_allows_no_workers_says_so() -> None:
    cluster = Cluster(node_types=(node_type(),), max_nodes=0, idle_s=0)
    result = estimate_fleet(MILLION, cluster, CapacityTable(), deadline_s=8 * HOUR)
    assert (result.chosen, result.options[0].problem) == ((), "max_workers: 0 allows no node of this type")


@pytest.mark.parametrize("hours", [1, 3, 8, 24])
def test_chosen_nodes_meet_the_deadline_even_slow_and_one_fewer_does_not(hours: float) -> None:
    result = plan(node_type(max_nodes=None), hours=hours)
    assert result.finish_s is not None
    assert result.finish_s[0] < result.finish_s[1] <= hours * HOUR
    [option] = result.chosen
    fewer = plan(node_type(max_nodes=option.nodes - 1), hours=hours)
    assert fewer.chosen == ()
    assert fewer.options[0].problem == f"needs {option.nodes} nodes; the limit is {option.nodes - 1}"


def test_more_gpus_are_never_slower() -> None:
    finishes = [plan(node_type(max_nodes=n), hours=None).options[0].finish_s[1] for n in range(1, 40)]
    assert finishes == sorted(finishes, reverse=True)


def test_cheapest_node_type_is_chosen() -> None:
    dear = node_type("dear", usd_per_hour=100.0, max_nodes=None)
    cheap = node_type("cheap", usd_per_hour=50.0, max_nodes=None)
    assert plan(dear, cheap).chosen[0].node_type.name == "cheap"


def test_fewer_nodes_are_chosen_at_the_same_price() -> None:
    single = node_type("single", num_accelerators=1, usd_per_hour=55.04 / 8, max_nodes=8)
    whole = node_type("whole", max_nodes=1)
    assert plan(single, whole, hours=None).chosen[0].node_type.name == "whole"


def test_node_types_go_together_where_none_suffices() -> None:
    [alone] = plan(node_type(max_nodes=None)).chosen
    first = node_type("cheap", usd_per_hour=50.0, max_nodes=alone.nodes - 1)
    result = plan(node_type("dear", max_nodes=2), first)
    assert [(one.node_type.name, one.nodes) for one in result.chosen] == [
        ("cheap", alone.nodes - 1),
        ("dear", 1),
    ]
    assert result.finish_s is not None
    assert result.finish_s[1] <= 8 * HOUR
    assert result.usd is not None
    assert result.usd[0] == pytest.approx(sum(one.usd[0] for one in result.chosen if one.usd))


def test_spot_nodes_are_slower_and_cheaper() -> None:
    [on_demand], [spot] = (plan(node_type(is_spot=is_spot)).chosen for is_spot in (False, True))
    assert spot.images_per_s < on_demand.images_per_s
    assert spot.usd is not None
    assert on_demand.usd is not None
    assert spot.usd[1] < on_demand.usd[1]


def test_driver_bounds_a_large_fleet() -> None:
    slow_driver = Assumptions(commit_rows=16, driver_blocks_per_s=1.0)
    [option] = plan(node_type(max_nodes=None), hours=10, assumptions=slow_driver).options
    assert "--commit-rows" in str(option.problem)
    assert option.finish_s[1] > 1_000_000 / 16


def test_deadline_before_anything_starts_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"deadline: 300 s is not above the 360 s"):
        plan(node_type(), hours=300 / HOUR)


CLUSTER = """
max_workers: 50
idle_timeout_minutes: 10
available_node_types:
  head: {resources: {CPU: 8, GPU: 0}, max_workers: 0, node_config: {InstanceType: m7i.2xlarge}}
  l40s:
    max_workers: 9
    resources: {CPU: 16, GPU: 1}
    node_config: &config {InstanceType: g6e.4xlarge, InstanceMarketOptions: {MarketType: spot}}
  asked-of-aws: {max_workers: 4, node_config: {<<: *config, InstanceType: g6e.12xlarge}}
  by-label:
    resources: {GPU: 2}
    labels: {ray.io/accelerator-type: H100}
    node_config: {InstanceType: x9.huge}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_cluster_file_is_read(tmp_path: Path) -> None:
    cluster = read_cluster(write(tmp_path, CLUSTER), CapacityTable())
    assert (cluster.max_nodes, cluster.idle_s) == (50, 600)
    found = {one.name: (one.accelerator, one.num_accelerators, one.max_nodes) for one in cluster.node_types}
    assert found == {
        "l40s": ("L40S", 1, 9),
        "asked-of-aws": ("L40S", 4, 4),
        "by-label": ("H100", 2, None),
    }
    assert [one.is_spot for one in cluster.node_types] == [True, True, False]
    assert [one.usd_per_hour for one in cluster.node_types] == [3.00424, 10.49264, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read"),
        ("a: 1", "has no available_node_types"),
        (HEAD, "no node type with GPUs"),
        (
            HEAD + "  n: {resources: {GPU: 1}, node_config: {InstanceType: x9}}",
            "the accelerator of x9 is unknown",
        ),
        (HEAD + "  n: {resources: {GPU: -1}, max_workers: 1}", "GPU is -1"),
        (HEAD + "  n: {resources: {GPU: 1}, max_workers: many}", "max_workers is 'many'"),
        (
            HEAD + "  n: {resources: {GPU: 1}, labels: {ray.io/accelerator-type: X1}}",
            "'X1' is not in the table",
        ),
    ],
)
def test_unusable_cluster_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("[", r"\[")):
        read_cluster(write(tmp_path, text), CapacityTable())


MEASURED = """
accelerators:
  H100: {sustained_tflops: 650}
  X1: {sustained_tflops: 100, memory_gb: 32}
machines:
  p5.48xlarge: {usd_per_hour: 30}
  x9.huge: {accelerator: X1, num_accelerators: 2, usd_per_hour: 1.5}
"""
GPU_LATENCY = """
device: NVIDIA H100 80GB HBM3
num_inference_steps: 8
caption_tokens: 32
cases:
  - {size: 512x512, images_per_s: {engine: 9.0}}
  - {size: 1024x1024, images_per_s: {engine: 1.2}}
  - {size: 1024x1024, images_per_s: {engine: 1.4}}
"""


def test_measured_figures_replace_the_table(tmp_path: Path) -> None:
    table = read_table([write(tmp_path, MEASURED)])
    h100, x1 = table.accelerators["H100"], table.accelerators["X1"]
    assert (h100.sustained_tflops, h100.memory_gb, h100.evidence) == (650, 85.5, Evidence.MEASURED)
    assert (x1.sustained_tflops, x1.evidence) == (100, Evidence.MEASURED)
    assert {one.name for one in any_machine(table).node_types} >= {"p5.48xlarge", "x9.huge"}
    assert table.machines["p5.48xlarge"].usd_per_hour == 30
    assert ACCELERATORS["H100"].sustained_tflops == 565


def test_benchmark_results_are_measured_figures(tmp_path: Path) -> None:
    h100 = read_table([write(tmp_path, GPU_LATENCY)]).accelerators["H100"]
    assert h100.sustained_tflops == pytest.approx(1.4 * 453, rel=0.02)
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "pipeline_overhead.json"
    core = read_table([str(results)]).accelerators["CPU-core"]
    # Machines differ, and one from day to day.
    assert 0.2 < core.sustained_tflops / ACCELERATORS["CPU-core"].sustained_tflops < 5
    content = json.loads(results.read_text(encoding="utf-8"))
    content["bare_images_per_s"] = [2 * speed for speed in content["bare_images_per_s"]]
    faster = read_table([write(tmp_path, json.dumps(content))]).accelerators["CPU-core"]
    assert faster.sustained_tflops == pytest.approx(2 * core.sustained_tflops)


@pytest.mark.parametrize(
    ("device", "entry"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA GeForce RTX 4090", None),
        ("NVIDIA RTX 6000 Ada Generation", None),
    ],
)
def test_benchmark_results_are_those_of_the_device_they_name(
    tmp_path: Path, device: str, entry: str | None
) -> None:
    path = write(tmp_path, GPU_LATENCY.replace("NVIDIA H100 80GB HBM3", device))
    if entry is None:
        with pytest.raises(InvalidRequest, match="not in the table"):
            read_table([path])
        return
    accelerators = read_table([path]).accelerators.values()
    assert [one.name for one in accelerators if path in one.speed_source] == [entry]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "has none of cases"),
        ("accelerators: {H100: {speed: 1}}", "speed is unknown"),
        ("accelerators: {H100: {sustained_tflops: 0}}", "sustained_tflops is 0, not a number above 0"),
        ("accelerators: {X1: {memory_gb: 32}}", "sustained_tflops"),
        ("accelerators: {H100: {evidence: sure}}", "evidence is 'sure'"),
        ("machines: {x9: 4}", "not a mapping of fields"),
        ("machines: {}\nprices: {}", "prices is unknown"),
        ("device: X1\ncases: []\n", "which is not in the table"),
    ],
)
def test_unusable_measured_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_table([write(tmp_path, text)])
