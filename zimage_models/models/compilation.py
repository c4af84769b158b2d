"""Whether an engine compiles its blocks (``torch.compile``), where the results are kept, and their number.

They are on disk, so an engine that starts again, or beside another one, loads them.
"""

import hashlib
import logging
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import cache_dir

from zimage_models.checkpoints.checkpoint_source import default_cache_dir
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec

logger = logging.getLogger(__name__)

_CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"


def compiles(config: EngineConfig, device: torch.device) -> bool:
    """Return whether an engine compiles its blocks; where nothing is said, on accelerators that can.

    Raises:
        InvalidRequest: it is to compile, and ``torch.compile`` does not work here.
    """
    if config.compile is False or (config.compile is None and device.type == "cpu"):
        return False
    _keep_on_disk(Path(config.cache_dir or default_cache_dir(), "compiled"))
    problem = _problem(device)
    if problem and config.compile:
        raise InvalidRequest(f"compile: torch.compile does not work on {device} ({problem})", field="compile")
    if problem:
        logger.warning("torch.compile does not work on %s (%s): the engine is slower", device, problem)
    return problem is None


def compiled_forms(config: EngineConfig, spec: ModelSpec, device: torch.device) -> Path:
    """Return the file that marks what an engine compiles as kept; it need not be there yet."""
    parts = [spec.directory / "transformer"]
    if spec.controlnet:
        parts.append(spec.controlnet.directory)
    what = [torch.__version__, _name(device), config.computing_dtype, config.precision]
    what.append(str(config.parallel.tensor_parallel_size))
    what += [(part / "config.json").read_text(encoding="utf-8") for part in parts]
    name = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
    return Path(cache_dir()) / f"{name}.compiled"


def num_compiled() -> int:
    """Return how many graphs this process has compiled, or loaded as compiled."""
    return int(counters["stats"]["unique_graphs"])


def _keep_on_disk(folder: Path) -> None:
    """Keep forms in a folder or, where it cannot be written, in torch's own, which has the user's name."""
    with suppress(OSError):  # a service account may have no home
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        os.environ.setdefault(_CACHE_DIR, str(folder))


@cache
def _problem(device: torch.device) -> str | None:
    """Return why nothing can be compiled, such as a missing compiler; None if it can."""
    try:
        torch.compile(_twice)(torch.ones(8, device=device))
    except Exception as error:  # of many classes, by what is missing
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _twice(x: Tensor) -> Tensor:
    return x + x


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
