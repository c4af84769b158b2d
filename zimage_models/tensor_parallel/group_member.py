"""One rank's end of the process groups: the models' collectives and the ranks' messages.

There are two groups. The models' group (NCCL between GPUs, else gloo) carries the collectives and the
payloads, each with a timeout. The control group is always gloo, which raises as soon as a peer is gone. Over
it, rank 0 announces each call and every other rank confirms that it has finished.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zimage_models.models.ranks import Verb
from zimage_models.tensor_parallel.step_message import (
    HEADER_NUMBERS,
    TensorLayout,
    empty_payload,
    layouts_of,
    payload_views,
    read_header,
    write_header,
)

_IDLE_TIMEOUT = timedelta(days=3650)
"""Timeout of a rank that waits for its next call: an idle engine is not an error."""


class GroupMember:
    """Joins the groups; one member per process, because torch has one default group."""

    def __init__(
        self, store: Any, *, rank: int, world_size: int, device: torch.device, timeout_s: float
    ) -> None:
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._timeout = timedelta(seconds=timeout_s)
        on_cpu = device.type == "cpu"
        if not on_cpu:
            # NCCL's reaction to a timeout. Rank 0 must survive: 2 aborts the communicator, which frees the
            # stream. Other ranks must not confirm what they did not compute: 1 ends their process.
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "2" if rank == 0 else "1"
            torch.accelerator.set_device_index(device)
        dist.init_process_group(
            "gloo" if on_cpu else "nccl",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=self._timeout,
            device_id=None if on_cpu else device,
        )
        self._control = dist.new_group(backend="gloo", timeout=self._timeout)
        world = dist.group.WORLD
        assert world is not None, "init_process_group made it"
        self.mesh = DeviceMesh.from_group(world, device.type)

    def announce(self, verb: Verb, tensors: Sequence[Tensor]) -> None:
        """Announce the next call to the other ranks and send them its tensors; on rank 0."""
        header = write_header(verb, tensors)
        for rank in range(1, self._world_size):
            dist.send(header, rank, group=self._control)
        if tensors:
            layouts = layouts_of(tensors)
            payload = empty_payload(layouts, self._device)
            for view, tensor in zip(payload_views(payload, layouts), tensors, strict=True):
                view.copy_(tensor)
            dist.broadcast(payload, 0)

    def listen(self) -> tuple[Verb, list[Tensor]]:
        """Wait as long as necessary for rank 0's next call and return it; on the other ranks."""
        header = torch.empty(HEADER_NUMBERS, dtype=torch.int64)
        self._receive(header, 0).wait(_IDLE_TIMEOUT)
        verb, layouts = read_header(header)
        return verb, self._receive_tensors(layouts)

    def confirm(self) -> None:
        """Confirm to rank 0 that the call is finished on this rank's device."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        dist.send(torch.tensor([self._rank]), 0, group=self._control)

    def await_confirmations(self) -> None:
        """Wait for all other ranks to finish; raise RuntimeError if a rank is gone or stuck.

        On a GPU, the host has only queued the collectives by now and does not notice a lost peer. The result
        is valid only when every rank has finished.
        """
        waiting = [(rank, self._receive(torch.empty(1, dtype=torch.int64), rank)) for rank in self._others()]
        for _, work in waiting:
            work.wait(self._timeout)

    def abort(self) -> None:
        """Free a GPU's stream from collectives that wait for a lost rank; gloo's end without help."""
        world = dist.group.WORLD
        if self._device.type != "cpu" and world is not None:
            world.abort()

    def leave(self) -> None:
        """Close all connections."""
        del self.mesh, self._control
        dist.destroy_process_group()

    def _others(self) -> range:
        return range(1, self._world_size)

    def _receive_tensors(self, layouts: Sequence[TensorLayout]) -> list[Tensor]:
        if not layouts:
            return []
        payload = empty_payload(layouts, self._device)
        dist.broadcast(payload, 0)
        return list(payload_views(payload, layouts))

    def _receive(self, tensor: Tensor, rank: int) -> dist.Work:
        work = dist.irecv(tensor, rank, group=self._control)
        assert work is not None, "only a process outside the group has none"
        return work
