"""Check a checkpoint's files before anything is started or loaded. It reads headers only; it needs no torch.

One rule for every reader: whole engines, the ranks of divided ones, conversions and the programs that plan.
"""

import os
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

from zimage_models.checkpoints.compare_tensors import Shapes, compare_tensors
from zimage_models.checkpoints.expected_tensors import (
    text_encoder_tensors,
    transformer_tensors,
    vae_tensors,
)
from zimage_models.checkpoints.safetensors_header import StoredTensor, read_header, require_content
from zimage_models.checkpoints.weight_files import weight_files, weight_parts
from zimage_models.component_config import ComponentConfig
from zimage_models.errors import CheckpointError

READ_DTYPES = ("F64", "F32", "F16", "BF16")
# What the names of quantised tensors end in, as their libraries write them.
_QUANTISED_NAMES = {
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
    "._data": "quanto",
    "._scale": "quanto",
    ".qweight": "GPTQ, AWQ or Nunchaku",
    "scaled_fp8": "scaled fp8",
    ".scale_weight": "scaled fp8",
    ".weight_scale": "scaled fp8",
    ".zero_point": "SDNQ",
    ".scale": "SDNQ",
}
_EXPECTED: dict[str, Callable[[ComponentConfig], Shapes]] = {
    "text_encoder": text_encoder_tensors,
    "transformer": transformer_tensors,
    "vae": vae_tensors,
}


def check_files(directory: Path) -> None:
    """Check a checkpoint's weights, by their headers, and that there is a tokenizer.

    Raises:
        CheckpointError: a file is missing, damaged, quantised, or does not fit its configuration.
    """
    for part in weight_parts(directory):
        check_weights(directory, part)
    tokenizer = directory / "tokenizer"
    # transformers makes one from the older pair of files, too.
    has_pair = (tokenizer / "vocab.json").exists() and not os.path.lexists(tokenizer / "tokenizer.json")
    for name in ("vocab.json", "merges.txt") if has_pair else ("tokenizer.json",):
        require_content(tokenizer / name)


def check_weights(directory: Path, part: str) -> None:
    """Check the weights of one component of a checkpoint; ``""`` is a ControlNet in its own folder.

    Raises:
        CheckpointError: as :func:`check_files`.
    """
    config, folder = ComponentConfig(directory, part), directory / part
    settings = config.content.get("quantization_config")
    if settings is not None:
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        raise _quantised(folder, f"{config.path.name} says with {method or 'an unknown method'}")
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(directory, part).files:
        header = read_header(file)
        _refuse_quantised(folder, header)
        for stored, tensor in header.items():
            name = tensor_name(stored, part)
            if name in tensors:
                raise CheckpointError(f"{file}: {stored} is also in another file that is read")
            if name is not None:
                tensors[name] = tensor
    if part in _EXPECTED:
        found = {name: tensor.shape for name, tensor in tensors.items()}
        compare_tensors(_EXPECTED[part](config), found, folder, has_all=part != "vae")


def tensor_name(stored: str, part: str) -> str | None:
    """Return a stored tensor's name in its model; None if the model does not have it.

    A causal-LM checkpoint has the encoder as its "model", next to an output head.
    """
    if part != "text_encoder":
        return stored
    return None if stored.startswith("lm_head.") else stored.removeprefix("model.")


def _refuse_quantised(folder: Path, header: Mapping[str, StoredTensor]) -> None:
    # The names first: they tell the method.
    for name, (end, method) in product(header, _QUANTISED_NAMES.items()):
        if name.endswith(end):
            raise _quantised(folder, f"{name} is of {method}")
    for name, tensor in header.items():
        if tensor.dtype not in READ_DTYPES:
            raise _quantised(folder, f"{name} is {tensor.dtype}, not one of {', '.join(READ_DTYPES)}")


def _quantised(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: quantised ({why}); only whole weights are read: use the checkpoint that it was made from"
    )
