"""Load one rank's share of a checkpoint: it reads only its slices and never holds a whole model.

It is as strict as :mod:`zimage_models.checkpoints.components`: a missing, unexpected or misshapen tensor is
an error.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import Qwen3Config, Qwen3Model

from zimage_models.checkpoints.check_files import tensor_name
from zimage_models.checkpoints.compare_tensors import compare_tensors
from zimage_models.checkpoints.components import without_unread_layers
from zimage_models.checkpoints.tensor_file import TensorFile
from zimage_models.checkpoints.weight_files import weight_files
from zimage_models.errors import CheckpointError
from zimage_models.models.denoisers.fp8_layers import use_fp8
from zimage_models.models.denoisers.fp8_linear import Fp8Linear
from zimage_models.tensor_parallel.parallel import parallelize, parallelize_text_encoder, parameter_splits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One rank's share of one model."""

    model: Any
    num_bytes_read: int
    """Tensor bytes read from the files."""
    num_bytes: int
    """Tensor bytes held, padding included."""


def load_transformer_share(
    directory: Path, mesh: DeviceMesh, *, device: torch.device, dtype: torch.dtype, fp8: bool = False
) -> Share:
    """Load this rank's share of a ZImageTransformer2DModel, in eval mode.

    Args:
        directory: the checkpoint.
        mesh: the ranks.
        device: where the share goes.
        dtype: of its weights.
        fp8: quantise those of the main blocks, each as it is read.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not match its configuration.
        InvalidRequest: there are more ranks than attention heads.
    """
    config = transformer_config(directory)
    whole = _build(lambda: ZImageTransformer2DModel.from_config(config), directory / "transformer")
    shapes = _shapes(whole)
    if fp8:
        use_fp8(whole)
    parallelize(whole, mesh)
    return _load(whole, shapes, directory, "transformer", device=device, dtype=dtype)


def transformer_config(directory: Path) -> dict[str, Any]:
    """Read a transformer's configuration file.

    Raises:
        CheckpointError: it cannot be read.
    """
    folder = directory / "transformer"
    try:
        config = ZImageTransformer2DModel.load_config(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error})") from error
    return dict(config)


def load_text_encoder_share(
    directory: Path, mesh: DeviceMesh, *, device: torch.device, dtype: torch.dtype
) -> Share:
    """Load this rank's share of a Qwen3Model after :func:`without_unread_layers`; only rank 0 embeds tokens.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not match its configuration.
    """
    folder = directory / "text_encoder"
    whole = _build(
        lambda: Qwen3Model(Qwen3Config.from_pretrained(str(folder), local_files_only=True)), folder
    )
    shapes = _shapes(whole)
    without_unread_layers(whole)
    if mesh.get_local_rank() > 0:
        whole.embed_tokens = None
    parallelize_text_encoder(whole, mesh)
    # Its frequencies are computed when it is built, so on the meta device they are empty.
    whole.rotary_emb = type(whole.rotary_emb)(whole.config)
    return _load(whole, shapes, directory, "text_encoder", device=device, dtype=dtype)


def _build(build: Callable[[], Any], folder: Path) -> Any:
    try:
        with torch.device("meta"):
            return build()
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error})") from error


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _load(
    model: Any,
    shapes: Mapping[str, tuple[int, ...]],
    directory: Path,
    part: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Share:
    """Read the parameters of a meta-device model; ``shapes`` are the whole model's, read or not."""
    with ExitStack() as stack:
        files = [stack.enter_context(TensorFile(path)) for path in weight_files(directory, part).files]
        found = _find_tensors(files, part)
        compare_tensors(
            shapes, {name: file.shapes()[stored] for name, (file, stored) in found.items()}, directory / part
        )
        for module_name, module in model.named_modules():
            splits = parameter_splits(module)
            for name, parameter in list(module.named_parameters(recurse=False)):
                file, stored = found[f"{module_name}.{name}".lstrip(".")]
                tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
                file.read_into(tensor, stored, splits.get(name))
                if isinstance(module, Fp8Linear):
                    module.quantize(tensor)
                else:
                    setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    share = Share(
        model=_rest_on_device(model, device),
        num_bytes_read=sum(file.num_bytes_read for file in files),
        num_bytes=sum(parameter.nbytes for parameter in model.parameters()),
    )
    logger.info(
        "%s: read %d bytes for a share of %d", directory / part, share.num_bytes_read, share.num_bytes
    )
    return share


def _rest_on_device(model: Any, device: torch.device) -> Any:
    # This moves the buffers; the parameters are already there.
    return model.to(device).eval()


def _find_tensors(files: list[TensorFile], part: str) -> dict[str, tuple[TensorFile, str]]:
    """Map a model's parameter names to the file they are in and their name there."""
    found: dict[str, tuple[TensorFile, str]] = {}
    for file in files:
        for stored in file.shapes():
            name = tensor_name(stored, part)
            if name is None:
                continue
            if name in found:
                raise CheckpointError(f"{file.path}: {stored} is also in {found[name][0].path.name}")
            found[name] = (file, stored)
    return found
