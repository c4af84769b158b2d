"""The device's own time."""

import time

import pytest
import torch

from zimage_models.models.stopwatch import Stopwatch


def test_it_measures_until_it_is_stopped() -> None:
    before_s = time.perf_counter()
    stopwatch = Stopwatch(torch.device("cpu"))
    assert stopwatch.seconds() is None
    stopwatch.stop()
    measured_s = stopwatch.seconds()
    assert measured_s is not None
    assert 0 <= measured_s <= time.perf_counter() - before_s
    assert stopwatch.seconds() == measured_s


@pytest.mark.gpu
def test_it_does_not_wait_for_the_device() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    stopwatch = Stopwatch(device)
    for _ in range(200):
        matrix = matrix @ matrix
    stopwatch.stop()
    assert stopwatch.seconds() is None
    torch.cuda.synchronize()
    measured_s = stopwatch.seconds()
    assert measured_s is not None
    assert measured_s > 0.01
