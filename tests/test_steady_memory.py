import os

from kshot.serve import steady_memory
from kshot.serve.steady_memory import GivingBack, keep_few_kernels


def test_the_number_of_kernels_is_the_users(monkeypatch):
    monkeypatch.setattr(os, "environ", found := {})
    keep_few_kernels()
    assert found == {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": str(steady_memory.KERNELS)}
    found["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "7"
    keep_few_kernels()
    assert found == {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}


def test_freed_memory_is_given_back_once_in_some_hundred_inputs(monkeypatch):
    calls = []
    memory = GivingBack()
    monkeypatch.setattr(memory, "_trim", calls.append)
    for _ in range(40):
        memory.after(16)
    assert calls == [0, 0]  # of 640 inputs


def test_where_the_c_library_cannot_nothing_happens(monkeypatch):
    memory = GivingBack()
    monkeypatch.setattr(memory, "_trim", None)
    memory.after(1000)
