"""What an engine reserves, in the words of both hosts and of the autoscaler."""

import pytest

from deployments.app_args import ModelArgs
from deployments.engine_resources import EngineResources
from zimage_models.errors import InvalidRequest


def test_model_is_placed_by_accelerator_and_labels() -> None:
    model = ModelArgs(
        id="base", num_cpus=2, num_gpus=2, accelerator_type="H100", node_labels={"ray.io/market-type": "spot"}
    )
    assert model.resources().actor_options() == {
        "num_cpus": 2,
        "num_gpus": 2,
        "accelerator_type": "H100",
        "label_selector": {"ray.io/market-type": "spot"},
    }


def test_what_was_not_asked_for_is_left_out() -> None:
    resources = EngineResources(num_cpus=2, num_gpus=0)
    assert resources.actor_options() == {"num_cpus": 2, "num_gpus": 0}
    assert resources.bundle() == {"CPU": 2}


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (EngineResources(num_cpus=4, num_gpus=0), "4 CPU"),
        (EngineResources(num_cpus=1, num_gpus=2, accelerator_type="L40S"), "2 GPU and 1 CPU on L40S nodes"),
        (EngineResources(num_cpus=0, num_gpus=1, node_labels={"pool": "a"}), "1 GPU on nodes with pool=a"),
    ],
)
def test_is_worded_for_who_waits_for_it(resources: EngineResources, text: str) -> None:
    assert str(resources) == text


def test_more_than_one_gpu_is_a_whole_number() -> None:
    with pytest.raises(InvalidRequest, match=r"engine_gpus: 1.5 "):
        EngineResources(num_cpus=1, num_gpus=1.5)
