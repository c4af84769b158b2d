"""The ranks as seen by rank 0, which starts them, runs calls on them and replaces them if one is lost."""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError, EngineDead
from zimage_models.models.ranks import Forward, Verb
from zimage_models.tensor_parallel.group_member import GroupMember
from zimage_models.tensor_parallel.parallel import disconnect
from zimage_models.tensor_parallel.rank_follower import OUT_OF_MEMORY
from zimage_models.tensor_parallel.rank_launcher import RankLauncher, RankProcess, Rendezvous
from zimage_models.tensor_parallel.rank_store import FAILED, LOADED, STARTED, RankStore

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_WATCH_S = 0.5
_STOP_TIMEOUT_S = 5.0


class RankGroup:
    """Rank 0's side of a divided engine; one per process.

    If a call fails, the group is rebuilt in place: rank 0 keeps its weights, and the others are restarted.
    Then the call is run again, unless memory ran out. If the rebuild fails, or the new group is lost before
    any call on it has succeeded, the engine is dead.
    """

    def __init__(self, config: EngineConfig, launcher: RankLauncher, device: torch.device) -> None:
        """Start the other ranks and join them; they then load their shares.

        Raises:
            EngineDead: a rank could not start.
        """
        self._config = config
        self._launcher = launcher
        self._device = device
        self._forwards: dict[Verb, Forward] = {}
        self._divided: list[tuple[Any, Callable[[Any, DeviceMesh], None]]] = []
        self._processes: dict[int, RankProcess] = {}
        self._store: RankStore | None = None
        self._member: GroupMember | None = None
        self._generation = 0
        self.num_rebuilds = 0
        self.loads: dict[int, dict[str, dict[str, int]]] = {}
        """Bytes that each rank read and holds, by model."""
        self._intact = False
        self._proven = True
        self._death: str | None = None
        self._closed = threading.Event()
        try:
            self._form()
        except BaseException:
            self.close()
            raise
        if device.type != "cpu":
            threading.Thread(target=self._watch, name="zimage-ranks", daemon=True).start()

    @property
    def mesh(self) -> DeviceMesh:
        """The ranks' mesh, until the group is rebuilt."""
        assert self._member is not None, "the group is closed"
        return self._member.mesh

    def keep_connected(self, model: Any, parallelize: Callable[[Any, DeviceMesh], None]) -> None:
        """Divide a model again whenever there is a new mesh, with the function that divided it."""
        self._divided.append((model, parallelize))

    def wait_until_loaded(self) -> None:
        """Wait for the other ranks' weights.

        Raises:
            CheckpointError: a rank does not find what rank 0 has found.
            EngineDead: a rank could not load its share.
        """
        reports = self._await_all(LOADED)
        self.loads = {rank: json.loads(report) for rank, report in reports.items()}
        self._intact = True

    def together(self, verb: Verb, forward: Forward) -> Forward:
        """Return a forward that all ranks run at once."""
        self._forwards[verb] = forward
        return partial(self._run, verb)

    def close(self) -> None:
        """End the other ranks and clean up; harmless if it is already closed."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._intact:
            self._ask_to_stop()
        self._tear_down()
        self._launcher.close()

    def _run(self, verb: Verb, *tensors: Tensor) -> Tensor:
        if self._closed.is_set():
            raise EngineDead(self._death or "its ranks were closed")
        if not self._intact:
            # An exception from outside, such as KeyboardInterrupt, has cut a call short.
            self._rebuild("the last call was cut short")
        while True:
            try:
                return self._try_run(verb, tensors)
            except torch.OutOfMemoryError as error:
                problem, out_of_memory = str(error), True
            except Exception as error:
                problem, out_of_memory = f"{type(error).__name__}: {error}", False
            # After the except clauses, because the error holds the call's tensors.
            reasons = self._reasons()
            for reason in reasons.values():
                if reason.startswith(OUT_OF_MEMORY):
                    problem, out_of_memory = reason, True
            if not out_of_memory:
                problem = "; ".join([problem, *(f"rank {rank}: {r}" for rank, r in reasons.items())])
            # Running out of memory says nothing about the group: a smaller batch may succeed.
            self._proven = self._proven or out_of_memory
            self._rebuild(problem)
            if out_of_memory:
                raise torch.OutOfMemoryError(problem)

    def _try_run(self, verb: Verb, tensors: Sequence[Tensor]) -> Tensor:
        assert self._member is not None, "the group is closed"
        self._intact = False
        self._member.announce(verb, tensors)
        result = self._forwards[verb](*tensors)
        self._member.await_confirmations()
        self._intact = self._proven = True
        return result

    def _rebuild(self, problem: str) -> None:
        if not self._proven:
            self._die(f"its ranks were lost twice without a step in between ({problem})")
        started_s = time.monotonic()
        logger.warning("a rank was lost; replacing all but rank 0 (%s)", problem)
        self._proven = False
        self._generation += 1
        try:
            self._tear_down()
            self._form()
            for model, parallelize in self._divided:
                parallelize(model, self.mesh)
            self.wait_until_loaded()
        except Exception as error:
            self._die(
                f"its ranks could not be replaced ({type(error).__name__}: {error}) after: {problem}", error
            )
        self.num_rebuilds += 1
        logger.warning("the ranks were replaced in %.1f s", time.monotonic() - started_s)

    def _die(self, reason: str, cause: Exception | None = None) -> None:
        self._death = reason
        self.close()
        raise EngineDead(reason) from cause

    def _form(self) -> None:
        """Start the other ranks and join the groups with them."""
        parallel = self._config.parallel
        world_size = parallel.tensor_parallel_size
        host = self._launcher.host
        self._store = RankStore.open(host, world_size=world_size, timeout_s=parallel.start_timeout_s)
        rendezvous = Rendezvous(
            host=host, port=self._store.port, world_size=world_size, generation=self._generation
        )
        for rank in range(1, world_size):
            self._processes[rank] = self._launcher.launch(rank, rendezvous, self._config)
        self._await_all(STARTED)
        self._member = GroupMember(
            self._store.store,
            rank=0,
            world_size=world_size,
            device=self._device,
            timeout_s=parallel.collective_timeout_s,
        )

    def _await_all(self, state: str) -> dict[int, str]:
        """Wait until every other rank has reported a state; return what they reported with it."""
        assert self._store is not None, "the group is closed"
        timeout_s = self._config.parallel.start_timeout_s
        deadline_s = time.monotonic() + timeout_s
        reports: dict[int, str] = {}
        while len(reports) < len(self._processes):
            for rank, process in self._processes.items():
                if rank in reports:
                    continue
                alive, text = process.alive, self._store.told(rank, state)
                if text is not None:
                    reports[rank] = text
                elif not alive:
                    reason = self._reasons().get(rank, "it ended without giving a reason")
                    kind, _, told = reason.partition(": ")
                    if kind == CheckpointError.__name__:
                        # No other start would do better, as it might after a death.
                        raise CheckpointError(f"rank {rank} has not {state}: {told}")
                    raise EngineDead(f"rank {rank} has not {state}: {reason}")
                elif time.monotonic() > deadline_s:
                    raise EngineDead(f"rank {rank} has not {state} within start_timeout_s, {timeout_s:g} s")
            time.sleep(_POLL_S)
        return reports

    def _reasons(self) -> dict[int, str]:
        """Collect the reasons of the other ranks that reported a failure."""
        store = self._store
        if store is None:
            return {}
        reports = {rank: store.told(rank, FAILED) for rank in self._processes}
        return {rank: reason for rank, reason in reports.items() if reason is not None}

    def _ask_to_stop(self) -> None:
        assert self._member is not None, "an intact group has one"
        try:
            self._member.announce(Verb.STOP, ())
        except RuntimeError as error:
            logger.info("a rank was gone before it could be stopped (%s)", error)
            return
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        while any(process.alive for process in self._processes.values()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)

    def _tear_down(self) -> None:
        self._intact = False
        for process in self._processes.values():
            process.kill()
        self._processes.clear()
        for model, _ in self._divided:
            disconnect(model)
        member, self._member, self._store = self._member, None, None
        try:
            if member is not None:
                member.abort()
                member.leave()
            elif dist.is_initialized():
                # Joining failed half-way.
                dist.destroy_process_group()
        except RuntimeError as error:
            logger.warning("could not leave a broken process group cleanly (%s)", error)

    def _watch(self) -> None:
        """Free rank 0 from a GPU collective that waits for a dead rank."""
        while not self._closed.wait(_WATCH_S):
            member, processes = self._member, list(self._processes.values())
            if member is not None and not all(process.alive for process in processes):
                member.abort()
