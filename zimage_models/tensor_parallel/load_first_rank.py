"""Load the models of a divided engine's rank 0: its shares, and the whole models that only it uses."""

import logging

import torch
import torch.distributed as dist

from zimage_models.checkpoints.check_files import check_files
from zimage_models.checkpoints.components import (
    Components,
    load_scheduler,
    load_siglip,
    load_text_encoder,
    load_vae,
)
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.device_memory import release_cached
from zimage_models.models.model_runner import ModelRunner
from zimage_models.tensor_parallel.local_ranks import LocalRankLauncher
from zimage_models.tensor_parallel.parallel import check_degree, parallelize, parallelize_text_encoder
from zimage_models.tensor_parallel.rank_follower import share_report
from zimage_models.tensor_parallel.rank_group import RankGroup
from zimage_models.tensor_parallel.rank_launcher import RankLauncher
from zimage_models.tensor_parallel.sharded_checkpoint import (
    load_text_encoder_share,
    load_transformer_share,
    transformer_config,
)

logger = logging.getLogger(__name__)


def load_first_rank(
    config: EngineConfig,
    spec: ModelSpec,
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    launcher: RankLauncher | None,
) -> ModelRunner:
    """Start the other ranks of an engine and load rank 0's models; closing the runner's ranks ends them.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not match its configuration, also
            where another rank is.
        InvalidRequest: there are more ranks than attention heads, or this process is in a process group.
        EngineDead: a rank could not start or load its share.
    """
    directory = spec.directory
    # Check everything that can be refused before starting anything.
    num_ranks = config.parallel.tensor_parallel_size
    if dist.is_initialized():
        raise InvalidRequest(
            f"tensor_parallel_size: {num_ranks} ranks need a process that is not yet in a process group",
            field="tensor_parallel_size",
        )
    check_files(directory)
    check_degree(num_ranks, transformer_config(directory)["n_heads"])
    group = RankGroup(config, launcher or LocalRankLauncher(), device)
    try:
        fp8 = config.precision == "fp8"
        shares = {
            "transformer": load_transformer_share(directory, group.mesh, device=device, dtype=dtype, fp8=fp8)
        }
        transformer = shares["transformer"].model
        group.keep_connected(transformer, parallelize)
        if config.parallel.text_encoder == "sharded":
            shares["text_encoder"] = load_text_encoder_share(
                directory, group.mesh, device=device, dtype=dtype
            )
            text_encoder = shares["text_encoder"].model
            group.keep_connected(text_encoder, parallelize_text_encoder)
        else:
            text_encoder = load_text_encoder(directory, device=device, dtype=dtype)
        components = Components(
            transformer=transformer,
            text_encoder=text_encoder,
            vae=load_vae(directory, device=device, dtype=vae_dtype),
            scheduler=load_scheduler(directory),
            **load_siglip(directory, device=device, dtype=dtype),
        )
        runner = ModelRunner(
            components,
            caption_cache_bytes=config.caption_cache_bytes,
            denoiser_class=denoiser_class(spec.variant),
            ranks=group,
            text_encoder_ranks=group if config.parallel.text_encoder == "sharded" else None,
        )
        # Joining the blocks' weights leaves as much cached as they take.
        release_cached(device)
        group.wait_until_loaded()
        group.loads[0] = share_report(shares)
        logger.info("bytes read and held by rank: %s", group.loads)
    except BaseException:
        group.close()
        raise
    return runner
