"""Errors for names that nobody knows, and devices by name."""

from __future__ import annotations

import pytest
import torch

from prune_gym.names import choose_device, unknown


def test_unknown_says_what_came_what_is_known_and_what_could_be_meant() -> None:
    assert (
        str(unknown("fruit", "aple", ("pear", "apple")))
        == "fruit: expected one of pear, apple; got 'aple'. Did you mean 'apple'?"
    )
    assert str(unknown("fruit", "xyz", {"pear": 1, "apple": 2})) == "fruit: expected one of pear, apple; got 'xyz'."
    assert str(unknown("fruit", None, ["pear"])) == "fruit: expected one of pear; got None."


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=rf"device: expected a device of this machine, got '{name}', but it has 0 GPUs"):
            choose_device(name)
    with pytest.raises(ValueError, match=r"device: expected one of auto, cpu, .*; got 'cpuu'\. Did you mean 'cpu'\?"):
        choose_device("cpuu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda", 0)
