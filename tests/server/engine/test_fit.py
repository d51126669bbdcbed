"""Sessions that do not fit into memory are refused before the start, with the number that does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.model.attention.tiny import tiny_model
from tests.model.small import Parts, build, small_config
from tests.pretend_gpu import GPU as PRETEND
from tests.pretend_gpu import PretendGraphs, pretend_gpu
from tests.server.engine.test_on_a_gpu import native

from hope_model.decoding import DecodeRows
from hope_model.decoding.compiled_path import CompiledPath
from hope_model.hope import Hope
from hope_server.engine import previews
from hope_server.engine.fit import check_fits, free_bytes, slot_bytes
from hope_server.engine.request import EngineConfig
from hope_server.engine.slab_previews import SlabPreviews
from hope_server.errors import StartupError

CPU = torch.device("cpu")


GPU = torch.device("cuda:1")


def check(config: EngineConfig, free: int | None, host_free: int | None = None) -> None:
    """On a GPU where the host's memory is told too."""
    if host_free is None:
        check_fits(config, 50, device=CPU, free=free, host_free=free)
    else:
        check_fits(config, 50, device=GPU, free=free, host_free=host_free)


def test_too_many_slots_name_the_number_that_fits() -> None:
    config = EngineConfig(slots=11, host_state_bytes=500)
    check(config, 1050)
    with pytest.raises(
        StartupError, match=r"--slots \(HOPE_SLOTS\): 11 sessions of 50 bytes .* enough for 10$"
    ) as end:
        check(config, 1049)
    assert end.value.param == "slots"


def test_a_host_tier_that_is_too_large_is_named_instead() -> None:
    with pytest.raises(StartupError, match=r"HOPE_HOST_STATE_BYTES.* at most 950$") as end:
        check(EngineConfig(slots=1, host_state_bytes=951), 1000)
    assert end.value.param == "host_state_bytes"


def test_on_a_gpu_slots_and_host_tier_do_not_share_memory() -> None:
    config = EngineConfig(slots=11, host_state_bytes=500)
    check(config, 550, 500)
    with pytest.raises(StartupError, match=r"HOPE_SLOTS.* on cuda:1: 549 bytes .* enough for 10$") as end:
        check(config, 549, 500)
    assert end.value.param == "slots"
    with pytest.raises(StartupError, match=r"HOPE_HOST_STATE_BYTES.* at most 499$") as end:
        check(config, 550, 499)
    assert end.value.param == "host_state_bytes"


def test_who_does_not_tell_is_not_asked() -> None:
    check(EngineConfig(slots=1 << 40, host_state_bytes=1 << 40), None)


@pytest.mark.compiler
@pytest.mark.parametrize("write_rule", ["sgd", "adam"])
def test_a_slot_is_as_large_as_its_row(write_rule: str) -> None:
    model = build(small_config(Parts(write_rule=write_rule)), torch.float32)
    rows = DecodeRows(model, 2, path="compiled")
    assert isinstance(rows._path, CompiledPath)
    packed, slabs = rows._path._decoder.row_bytes, rows.park(1).tensors
    assert DecodeRows.row_bytes(model) == packed + sum(tensor.nbytes for tensor in slabs)
    assert slot_bytes(model) == model.state_spec.row_bytes + DecodeRows.row_bytes(model)


def test_a_slot_of_a_pre_trained_model_holds_a_full_window() -> None:
    model = tiny_model()
    cache = model.new_cache(3)
    cache.reserve(cache.capacity)
    held = sum(tensor.nbytes for tensor in cache.tensors()) // 3
    assert slot_bytes(model) > held + model.state_spec.row_bytes


def test_other_models_have_two_rows_a_slot() -> None:
    model = build(small_config(Parts(rule="gated")), torch.float32)
    assert isinstance(model, Hope)
    assert slot_bytes(model) == 2 * model.state_spec.row_bytes


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "free"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   4 kB\n", "max\n", "7\n", 4096),
        ("MemAvailable: 4 kB\n", "3000\n", "1000\n", 2000),
        ("MemAvailable: 4 kB\n", "3000\n", "3100\n", 0),
        ("nothing", "3000", "1000", 2000),
        ("MemAvailable: lots kB", "max", "0", None),
    ],
)
def test_what_is_free_is_the_least_that_anybody_says(
    tmp_path: Path, meminfo: str, limit: str, used: str, free: int | None
) -> None:
    for name, text in (("meminfo", meminfo), ("memory.max", limit), ("memory.current", used)):
        (tmp_path / name).write_text(text)
    assert free_bytes(CPU, meminfo=tmp_path / "meminfo", cgroup=tmp_path) == free


def test_a_system_without_either_says_nothing(tmp_path: Path) -> None:
    assert free_bytes(CPU, meminfo=tmp_path / "none", cgroup=tmp_path) is None


def test_on_a_gpu_a_slot_is_a_row_of_each_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_gpu() as gpu:
        monkeypatch.setattr(previews, "CudaGraphs", lambda _device: PretendGraphs(gpu))
        model = native(PRETEND)
        live = previews.previews_of(model, slots=3, group=2)
        assert isinstance(live, SlabPreviews)
        held = sum(tensor.nbytes for slot in range(3) for tensor in live.state(slot).values())
        assert 3 * slot_bytes(model) == 2 * held
