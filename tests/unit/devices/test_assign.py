"""Which device a task uses."""

from __future__ import annotations

import pytest

from sparkgap import ConfigurationError
from sparkgap.devices.assign import choose


@pytest.mark.parametrize(
    ("wanted", "can_gpu", "granted", "visible", "partition", "device"),
    [
        ("auto", True, [], 0, 0, "cpu"),
        ("auto", False, ["3"], 4, 0, "cpu"),
        ("auto", True, ["3"], 4, 0, "cuda:3"),
        ("auto", True, [], 2, 5, "cuda:1"),
        ("cpu", True, ["0"], 1, 0, "cpu"),
        ("cuda", True, ["1", "2"], 0, 0, "cuda:1"),
        ("cuda", True, [], 3, 4, "cuda:1"),
        ("cuda:7", True, ["1"], 1, 0, "cuda:7"),
    ],
)
def test_choose(wanted, can_gpu, granted, visible, partition, device):
    assert choose(wanted, can_gpu=can_gpu, granted=granted, visible=visible, partition=partition) == device


def test_a_gpu_that_is_not_there():
    with pytest.raises(ConfigurationError, match="this executor has no NVIDIA GPU. Use device='auto'"):
        choose("cuda", can_gpu=True, granted=[], visible=0, partition=0)
    with pytest.raises(ConfigurationError, match="adapter runs on the CPU only"):
        choose("cuda", can_gpu=False, granted=["0"], visible=1, partition=0)
