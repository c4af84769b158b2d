"""The processes that the ranks of divided engines run in, as tests see them from outside."""

import psutil


def rank_processes(root: psutil.Process) -> list[psutil.Process]:
    """List the ranks (but rank 0, which is its engine's process) of all engines below a process."""
    servers = [
        child for child in _children(root, recursive=True) if "tensor_parallel.rank_server" in _title(child)
    ]
    # A rank is forked from its server, and so has the same title.
    numbers = {server.pid for server in servers}
    return [rank for server in servers for rank in _children(server) if rank.pid in numbers]


def gone(processes: list[psutil.Process], *, timeout_s: float = 60) -> bool:
    """Wait until these processes have ended."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _children(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
