"""Memory that a CPU engine frees stays with its process."""

import platform
import subprocess
import sys

import pytest

_ROUNDS = """
import resource, threading
import torch
from zimage_models.models.device_memory import keep_freed

def allocate_and_free():
    for round in range(10):
        blocks = [torch.ones(2**18) for _ in range(40)]
        blocks.append(torch.ones(20 * 2**18))
        del blocks
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

faults = []
keep_freed(torch.device("cpu"))
thread = threading.Thread(target=allocate_and_free)  # engines step in a thread, whose heaps are others
thread.start()
thread.join()
print(faults[-1] - faults[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is set under another C library")
def test_steps_after_the_first_need_no_new_memory() -> None:
    printed = subprocess.run([sys.executable, "-c", _ROUNDS], check=True, capture_output=True, text=True)
    pages_of_one_round = 60 * 2**20 // 4096
    assert int(printed.stdout) < pages_of_one_round
