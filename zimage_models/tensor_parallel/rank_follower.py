"""The work of ranks 1 and up: load their share of the models, then run what rank 0 announces."""

import json
import logging

import torch

from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.models.compilation import compiles
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.device_memory import keep_freed, release_cached
from zimage_models.models.devices import limit_threads, resolve_device, resolve_dtype
from zimage_models.models.prompt_encoder import PromptEncoder
from zimage_models.models.ranks import Forward, Verb
from zimage_models.tensor_parallel.group_member import GroupMember
from zimage_models.tensor_parallel.rank_launcher import Rendezvous
from zimage_models.tensor_parallel.rank_store import FAILED, LOADED, STARTED, RankStore
from zimage_models.tensor_parallel.sharded_checkpoint import (
    Share,
    load_text_encoder_share,
    load_transformer_share,
)

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "out of memory: "
"""Prefix of the failure reason of a rank that ran out of memory."""


class FollowingRanks:
    """The ranks as seen by rank 1 and up, which run what rank 0 announces."""

    num_rebuilds = 0

    def __init__(self, member: GroupMember) -> None:
        self._member = member
        self._forwards: dict[Verb, Forward] = {}

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Register a verb's forward and return it unchanged."""
        self._forwards[verb] = forward
        return forward

    @torch.inference_mode()
    def follow(self) -> None:
        """Run what rank 0 announces until it announces the stop."""
        while True:
            verb, tensors = self._member.listen()
            if verb is Verb.STOP:
                return
            self._forwards[verb](*tensors)
            self._member.confirm()

    def close(self) -> None:
        """Close the connections."""
        self._member.leave()


def run_rank(
    rank: int, rendezvous: Rendezvous, config: EngineConfig, *, device_index: int | None = None
) -> None:
    """Run one rank of an engine until rank 0 stops it or is gone; raise the error that ends it early.

    It reports its state in the rendezvous' store: ``started/N``, then ``loaded/N`` with what it read, or
    ``failed/N`` with the reason.

    Args:
        rank: 1 or more.
        rendezvous: where rank 0 waits.
        config: the engine's, the same as on rank 0.
        device_index: among the visible accelerators; None for the rank's own number, as on one machine.
    """
    store = RankStore.reach(rendezvous, timeout_s=config.parallel.start_timeout_s)
    try:
        _run(rank, rendezvous, config, store, rank if device_index is None else device_index)
    except Exception as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        reason = f"{OUT_OF_MEMORY if out_of_memory else ''}{type(error).__name__}: {error}"
        try:
            store.tell(rank, FAILED, reason)
        except RuntimeError:
            # Rank 0 is gone, which is what ended this rank.
            logger.info("rank %d ends: %s", rank, reason)
        raise


def _run(
    rank: int, rendezvous: Rendezvous, config: EngineConfig, store: RankStore, device_index: int
) -> None:
    limit_threads(config)
    device = resolve_device(config, index=device_index)
    keep_freed(device)
    dtype = resolve_dtype(config.computing_dtype, device)
    spec = resolve_model(config)
    directory = spec.directory
    store.tell(rank, STARTED)
    member = GroupMember(
        store.store,
        rank=rank,
        world_size=rendezvous.world_size,
        device=device,
        timeout_s=config.parallel.collective_timeout_s,
    )
    ranks = FollowingRanks(member)
    fp8 = config.precision == "fp8"
    shares = {
        "transformer": load_transformer_share(directory, member.mesh, device=device, dtype=dtype, fp8=fp8)
    }
    if config.parallel.text_encoder == "sharded":
        shares["text_encoder"] = load_text_encoder_share(directory, member.mesh, device=device, dtype=dtype)
        PromptEncoder(shares["text_encoder"].model, ranks=ranks)
    denoiser = denoiser_class(spec.variant)(shares["transformer"].model, ranks=ranks)
    # Joining the blocks' weights leaves as much cached as they take.
    release_cached(device)
    if compiles(config, device):
        denoiser.compile()
    store.tell(rank, LOADED, json.dumps(share_report(shares)))
    ranks.follow()
    ranks.close()


def share_report(shares: dict[str, Share]) -> dict[str, dict[str, int]]:
    """Return how many bytes of each model a rank read and holds."""
    return {
        part: {"num_bytes_read": share.num_bytes_read, "num_bytes": share.num_bytes}
        for part, share in shares.items()
    }
