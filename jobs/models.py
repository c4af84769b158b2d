"""``zimage models``: the variants, and the models known by name."""

from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS
from zimage_models.variants import VARIANTS


def command() -> int:
    """List the variants and the models known by name; any other checkpoint needs --variant."""
    print("variants")
    for variant in VARIANTS.values():
        steps = "{}-{}".format(*variant.recommended_steps)
        guidance = "{:g}-{:g}".format(*variant.recommended_guidance)
        print(f"  {variant.name:6} {variant.summary}; recommended steps {steps}, guidance {guidance}")
    print("models")
    for name, known in KNOWN_MODELS.items():
        where = "embedded" if known.directory else "hub"
        print(f"  {name:26} {known.variant:6} {where}{' (default)' if name == DEFAULT_MODEL else ''}")
    return 0
