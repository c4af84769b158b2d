"""What a checkpoint's configuration decides of its images that neither its weights nor a request show.

Most of a configuration gives the shapes of tensors, which are loaded strictly: the hash of the weights covers
it. The rest is here, but for the scheduler's (:func:`.component_config.scheduler_settings`) and the
tokenizer's (:attr:`.PromptTokenizer.rules`).
"""

from collections.abc import Mapping
from typing import Any

from zimage_models.component_config import ComponentConfig, canonical_json
from zimage_models.model_spec import ModelSpec

# diffusers' and transformers' defaults of what a configuration may leave out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "transformer": {"axes_dims": [32, 48, 48], "norm_eps": 1e-5, "rope_theta": 256.0, "t_scale": 1000.0},
    "vae": {"act_fn": "silu", "norm_num_groups": 32, "scaling_factor": 0.18215, "shift_factor": None},
    "text_encoder": {"hidden_act": "silu", "rms_norm_eps": 1e-6},
}
_QWEN3_ROPE = {"rope_theta": 1_000_000.0, "rope_type": "default"}
_QWEN3 = {**_DEFAULTS["text_encoder"], "rope": _QWEN3_ROPE, "sliding": False}
_KNOWN: dict[str, list[dict[str, Any]]] = {
    "transformer": [_DEFAULTS["transformer"], {**_DEFAULTS["transformer"], "axes_dims": [16, 24, 24]}],
    "vae": [
        {**_DEFAULTS["vae"], "scaling_factor": 0.3611, "shift_factor": 0.1159},
        {
            **_DEFAULTS["vae"],
            "norm_num_groups": 8,
            "scaling_factor": 0.8970019551257786,
            "shift_factor": -0.28414660692214966,
        },
    ],
    "text_encoder": [_QWEN3],
}
"""The settings of the release and of the embedded models: with these, IDs stay those of release 0.1."""
_IRRELEVANT = ("_class_name", "_diffusers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")
_SIGLIP_PARTS = ("siglip", "siglip_processor")


def pixel_settings(spec: ModelSpec) -> str:
    """Return the settings that are no known model's, by component, as canonical JSON; "" if all are known.

    Raises:
        CheckpointError: a configuration file is missing or unreadable.
    """
    found: dict[str, Any] = {}
    for part, defaults in _DEFAULTS.items():
        content = ComponentConfig(spec.directory, part).content
        settings = {name: content.get(name, default) for name, default in defaults.items()}
        if part == "text_encoder":
            settings |= {"rope": _rope(content), "sliding": _sliding(content)}
        if settings not in _KNOWN[part]:
            found[part] = settings
    if spec.siglip:
        # There is no released model with one.
        for part in _SIGLIP_PARTS:
            content = ComponentConfig(spec.directory, part).content
            found[part] = {name: value for name, value in content.items() if name not in _IRRELEVANT}
    if spec.controlnet:
        controlnet = _controlnet(
            ComponentConfig(spec.controlnet.directory, ""), ComponentConfig(spec.directory, "transformer")
        )
        if controlnet:
            found["controlnet"] = controlnet
    return canonical_json(found)


def _rope(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a text encoder's rotary embedding, which transformers 5 writes as one entry and 4 as two."""
    rope = content.get("rope_parameters") or {
        "rope_theta": content.get("rope_theta", 10_000.0),
        **(content.get("rope_scaling") or {}),
    }
    return {"rope_type": "default", **rope}


def _sliding(content: Mapping[str, Any]) -> Any:
    """Return which layers of a text encoder see only a window of the prompt; False for none."""
    window = content.get("sliding_window") if content.get("use_sliding_window") else None
    layer_types = content.get("layer_types") or []
    if window is None and all(one == "full_attention" for one in layer_types):
        return False
    return [window, layer_types or content.get("max_window_layers")]


def _controlnet(config: ComponentConfig, transformer: ComponentConfig) -> dict[str, Any]:
    """Return a ControlNet's settings if it doesn't give its hints at even distances, as the released do."""
    settings = {"norm_eps": config.content.get("norm_eps", 1e-5)}
    is_even = True
    for name, layers in (
        ("control_layers_places", "n_layers"),
        ("control_refiner_layers_places", "n_refiner_layers"),
    ):
        places = settings[name] = config.content.get(name) or []
        if places:
            distance = transformer.integer(layers) // len(places)
            is_even &= places == [distance * number for number in range(len(places))]
    return {} if is_even and settings["norm_eps"] == 1e-5 else settings
