"""What a cache keeps in memory, and for whom."""

from __future__ import annotations

import torch

from prune_gym.simulation.journal import Journal
from prune_gym.simulation.result_cache import MAX_ENTRIES, NamespacedCache, ResultCache


def test_the_oldest_of_a_kind_is_forgotten(monkeypatch):
    monkeypatch.setitem(MAX_ENTRIES, "ranks", 2)
    cache = ResultCache()
    cache.put("accuracy", "1", 1.0)
    for key in ("1", "2", "3"):
        cache.put("ranks", key, key)
    assert [cache.get("ranks", key) for key in ("1", "2", "3")] == [None, "2", "3"]
    assert cache.get("accuracy", "1") == 1.0


def test_memory_has_no_place_for_tensors():
    cache = ResultCache()
    cache.save_tensors("a", {"w": torch.ones(1)})
    assert cache.load_tensors("a") is None
    cache.forget_tensors("a")
    cache.sync()


def test_namespaces_share_a_cache_and_nothing_in_it(tmp_path):
    journal = Journal()
    journal.open(tmp_path / "journal", {})
    one, two = NamespacedCache(journal, "one"), NamespacedCache(journal, "two")
    for cache, value in ((one, 1.0), (two, 2.0)):
        cache.put("accuracy", "a", value)
        cache.save_tensors("t", {"w": torch.full((1,), value)})
        cache.sync()
    for cache, value in ((one, 1.0), (two, 2.0)):
        assert cache.get("accuracy", "a") == value
        assert cache.get("ranks", "a") is None
        found = cache.load_tensors("t")
        assert found is not None
        assert found["w"].item() == value
    assert journal.get("accuracy", "a") is None
    assert journal.load_tensors("t") is None
    one.forget_tensors("t")
    assert one.load_tensors("t") is None
    assert two.load_tensors("t") is not None
