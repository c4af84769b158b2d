import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from tests.zimage_models.test_model_spec import change
from zimage_models.checkpoints.pixel_settings import pixel_settings
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.component_config import DEFAULT_SHIFT, DYNAMIC_SHIFT_DEFAULTS, SCHEDULER_DEFAULTS
from zimage_models.config import EngineConfig
from zimage_models.model_spec import KNOWN_MODELS, ModelSpec

EMBEDDED = {name: model.directory for name, model in KNOWN_MODELS.items() if model.directory}
# Facts of the release's repository: what its configuration files say of pixels.
RELEASED: dict[str, dict[str, Any]] = {
    "transformer": {"axes_dims": [32, 48, 48], "norm_eps": 1e-5, "rope_theta": 256.0, "t_scale": 1000.0},
    "vae": {
        "act_fn": "silu",
        "norm_num_groups": 32,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "force_upcast": True,
    },
    # As transformers 4 wrote it.
    "text_encoder": {
        "rope_parameters": ...,
        "layer_types": ...,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "sliding_window": None,
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Copy an embedded model's configuration, to be changed."""
    source = EMBEDDED["tiny-zimage-turbo"]
    return Path(
        shutil.copytree(
            source, tmp_path / "tiny-zimage-turbo", ignore=shutil.ignore_patterns("*.safetensors")
        )
    )


def spec_of(directory: Path, **options: Any) -> ModelSpec:
    return resolve_model(EngineConfig(model=str(directory), fake=True, **options))


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_have_only_known_settings(name: str) -> None:
    spec = resolve_model(EngineConfig(model=name))
    assert (spec.scheduler, spec.pixel_settings) == ("", "")


def test_the_release_has_only_known_settings(checkpoint: Path) -> None:
    for part, values in RELEASED.items():
        change(checkpoint / part / "config.json", **values)
    (checkpoint / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
        )
    )
    spec = spec_of(checkpoint)
    assert (spec.scheduler, spec.pixel_settings) == ("", "")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("transformer", {"rope_theta": 512.0}),
        ("transformer", {"t_scale": 1.0}),
        ("transformer", {"norm_eps": 1e-6}),
        ("transformer", {"axes_dims": [32, 16, 16]}),
        ("vae", {"scaling_factor": 0.3611}),
        ("vae", {"scaling_factor": ...}),
        ("vae", {"shift_factor": 0.1159}),
        ("vae", {"norm_num_groups": 16}),
        ("vae", {"act_fn": "gelu"}),
        ("text_encoder", {"hidden_act": "gelu"}),
        ("text_encoder", {"rms_norm_eps": 1e-5}),
        ("text_encoder", {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"}}),
        ("text_encoder", {"rope_parameters": ..., "rope_theta": 10_000.0}),
        ("text_encoder", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("text_encoder", {"use_sliding_window": True, "sliding_window": 16}),
    ],
)
def test_a_setting_that_no_known_model_has_is_told(
    checkpoint: Path, part: str, values: dict[str, Any]
) -> None:
    change(checkpoint / part / "config.json", **values)
    told = json.loads(pixel_settings(spec_of(checkpoint)))
    assert told.keys() == {part}


def test_what_writes_a_configuration_leaves_its_settings_alone(checkpoint: Path) -> None:
    change(checkpoint / "transformer" / "config.json", _diffusers_version="9", _name_or_path="x")
    change(checkpoint / "text_encoder" / "config.json", transformers_version="9", dtype="float32")
    assert spec_of(checkpoint).pixel_settings == ""


def test_siglip_is_told(siglip_checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(siglip_checkpoint, tmp_path / "copy"))
    before = spec_of(copy).pixel_settings
    change(copy / "siglip_processor" / "preprocessor_config.json", image_mean=[0.4, 0.4, 0.4])
    assert len({before, spec_of(copy).pixel_settings, spec_of(siglip_checkpoint).pixel_settings}) == 2


@pytest.mark.parametrize(
    ("settings", "is_known"),
    [
        # Z-Image-Turbo-Fun-Controlnet-Union 1.0, 2.0 and 2.1.
        ({"control_layers_places": [0, 5, 10, 15, 20, 25]}, True),
        ({"control_layers_places": [*range(0, 30, 2)], "control_refiner_layers_places": [0, 1]}, True),
        ({"control_layers_places": [0, 5, 10, 15, 20, 26]}, False),
        ({"control_layers_places": [*range(0, 30, 2)], "control_refiner_layers_places": [1]}, False),
        ({"control_layers_places": [0, 5, 10, 15, 20, 25], "norm_eps": 1e-6}, False),
    ],
)
def test_a_controlnet_whose_hints_go_elsewhere_is_told(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any], is_known: bool
) -> None:
    change(checkpoint / "transformer" / "config.json", n_layers=30, n_refiner_layers=2)
    shape = {"_class_name": "ZImageControlNetModel", "dim": 256, "n_heads": 4, "n_kv_heads": 4}
    controlnet = tmp_path / "controlnet"
    controlnet.mkdir()
    (controlnet / "config.json").write_text(
        json.dumps({**shape, "control_in_dim": 16, "n_refiner_layers": 2, **settings})
    )
    told = spec_of(checkpoint, controlnet=str(controlnet)).pixel_settings
    assert (told == "") == is_known


def test_scheduler_defaults_are_those_of_diffusers() -> None:
    parameters = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    assumed = {**SCHEDULER_DEFAULTS, **DYNAMIC_SHIFT_DEFAULTS, "shift": DEFAULT_SHIFT}
    assert assumed == {name: parameters[name].default for name in assumed}


def times_of(**settings: Any) -> tuple[list[float], list[float]]:
    scheduler = FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **settings})
    scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(8))
    return scheduler.sigmas.tolist(), scheduler.timesteps.tolist()


CHANGED = {
    "invert_sigmas": True,
    "num_train_timesteps": 500,
    "shift_terminal": 0.1,
    "use_beta_sigmas": True,
    "use_exponential_sigmas": True,
    "use_karras_sigmas": True,
    # These change nothing without dynamic shifting.
    "base_image_seq_len": 1,
    "base_shift": 2.0,
    "max_image_seq_len": 9,
    "max_shift": 9.0,
    "time_shift_type": "linear",
}
REFUSED = {"stochastic_sampling"}


def test_every_setting_of_a_scheduler_is_thought_of() -> None:
    parameters = {*inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters}
    assert parameters - {"self"} == CHANGED.keys() | REFUSED | {"shift", "use_dynamic_shifting"}


@pytest.mark.parametrize("name", CHANGED)
def test_a_schedulers_setting_is_told_if_it_changes_the_times(checkpoint: Path, name: str) -> None:
    if name == "use_beta_sigmas":
        pytest.importorskip("scipy")
    change(checkpoint / "scheduler" / "scheduler_config.json", **{name: CHANGED[name]})
    told = spec_of(checkpoint).scheduler
    assert (times_of(**{name: CHANGED[name]}) != times_of()) == bool(told)
    assert not told or json.loads(told) == {name: CHANGED[name]}


def test_the_numbers_of_a_dynamic_shift_are_told(checkpoint: Path) -> None:
    path = checkpoint / "scheduler" / "scheduler_config.json"
    change(path, use_dynamic_shifting=True)
    assert json.loads(spec_of(checkpoint).scheduler) == {"use_dynamic_shifting": True}
    change(path, **DYNAMIC_SHIFT_DEFAULTS)
    assert json.loads(spec_of(checkpoint).scheduler) == {"use_dynamic_shifting": True}
    change(path, max_shift=2.0, shift=...)
    assert json.loads(spec_of(checkpoint).scheduler) == {"max_shift": 2.0, "use_dynamic_shifting": True}
    assert spec_of(checkpoint).shift == 1.0
