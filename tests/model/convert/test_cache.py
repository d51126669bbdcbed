"""A checkpoint's folder appears whole or not at all, and one process at a time makes it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.model.convert.builders import no_memory, random_weights, tiny_backbone, write_folder

from hope_model.attention.backbone import tensor_shapes
from hope_model.convert.cache import default_cache_dir, exclusive, models_dir
from hope_model.convert.convert import convert
from hope_model.convert.progress import silent
from hope_model.errors import ConversionError

SHAPES = tensor_shapes(tiny_backbone(layers=1))


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_folder(tmp_path / "source", random_weights(SHAPES), num_hidden_layers=1))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "tiny"


def test_the_cache_is_where_the_user_keeps_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "hope"
    path = convert(source, calibrate=no_memory, name="my-model").path
    assert path == models_dir() / "my-model" == tmp_path / "xdg" / "hope" / "models" / "my-model"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache_dir() == tmp_path / "home" / ".cache" / "hope"


def test_a_user_without_a_home_is_told_what_to_set(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConversionError, match="set XDG_CACHE_HOME or HOME"):
        convert(source, calibrate=no_memory)


def _interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def _out_of_luck(*_: Any, **__: Any) -> Any:
    raise RuntimeError("calibration")


@pytest.mark.parametrize(
    ("calibrate", "error"), [(_interrupted, KeyboardInterrupt), (_out_of_luck, RuntimeError)]
)
def test_a_conversion_that_ends_early_leaves_nothing(
    source: str, out: Path, calibrate: Any, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        convert(source, out=out, calibrate=calibrate)
    assert not list(out.parent.iterdir())
    assert convert(source, out=out, calibrate=no_memory).fresh
    assert list(out.parent.iterdir()) == [out]


@contextmanager
def _small_files(limit: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond ``limit`` bytes, much as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 4096, 60_000])
def test_a_file_that_cannot_grow_is_one_clear_line(source: str, out: Path, limit: int) -> None:
    with _small_files(limit), pytest.raises(ConversionError, match="File too large"):
        convert(source, out=out, calibrate=no_memory)
    assert not list(out.parent.iterdir())


def test_a_full_disk_is_one_clear_line(source: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it shows only when data are written out."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConversionError, match=f"{out}: No space left on device"):
        convert(source, out=out, calibrate=no_memory)
    assert not list(out.parent.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_line(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match=r"file.*(Not a directory|File exists)"):
        convert(source, out=tmp_path / "file" / "out", calibrate=no_memory)


def test_the_same_model_is_found_again(source: str, out: Path) -> None:
    assert convert(source, out=out, calibrate=no_memory) == (out, True)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert convert(source, out=out, calibrate=_out_of_luck) == (out, False)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_model_or_other_files_are_not_replaced(source: str, out: Path, tmp_path: Path) -> None:
    convert(source, out=out, calibrate=no_memory)
    with pytest.raises(ConversionError, match="holds another model"):
        convert(source, out=out, calibrate=no_memory, dtype="float32")
    other = write_folder(tmp_path / "other", {**random_weights(SHAPES)}, num_hidden_layers=1, rope_theta=7.0)
    with pytest.raises(ConversionError, match="holds another model"):
        convert(str(other), out=out, calibrate=no_memory)
    (out / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match="expected no such folder, or an empty one"):
        convert(source, out=out, calibrate=no_memory)
    assert (out / "config.json").exists()


def test_a_converted_model_is_no_source(source: str, out: Path) -> None:
    convert(source, out=out, calibrate=no_memory)
    with pytest.raises(ConversionError, match="is converted already"):
        convert(str(out), out=out.with_name("again"), calibrate=no_memory)


def test_an_empty_folder_and_a_link_to_one_may_be_filled(source: str, out: Path, tmp_path: Path) -> None:
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    assert convert(source, out=tmp_path / "link", calibrate=no_memory) == (out, True)
    assert (tmp_path / "link" / "config.json").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a" * 101])
def test_a_name_is_no_path(source: str, name: str) -> None:
    with pytest.raises(ConversionError, match="name: expected at most 100 letters"):
        convert(source, calibrate=no_memory, name=name)


@pytest.mark.parametrize(("name", "made"), [("_own", "own"), ("a" * 120, "a" * 100), ("模型", "model")])
def test_any_folders_name_makes_a_name(
    source: str, name: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(source).rename(tmp_path / name)
    assert convert(str(folder), calibrate=no_memory).path.name == made


def test_the_second_of_two_waits_and_finds_the_first_ones(source: str, out: Path) -> None:
    waits, calls = threading.Event(), []

    def calibrate(*arguments: Any, **__: Any) -> Any:
        calls.append(1)
        assert waits.wait(20)
        return no_memory(*arguments)

    def progress(step: str, done: int = 0, total: int = 0) -> None:
        if step.startswith("waiting for another process"):
            waits.set()

    def run() -> tuple[Path, bool]:
        return convert(source, out=out, calibrate=calibrate, progress=progress)

    with ThreadPoolExecutor(2) as pool:
        results = [future.result(timeout=60) for future in [pool.submit(run), pool.submit(run)]]
    assert sorted(results) == [(out, False), (out, True)]
    assert calls == [1]
    assert list(out.parent.iterdir()) == [out]


def test_the_second_of_two_takes_over_from_one_that_fails(source: str, out: Path) -> None:
    waits, calls = threading.Event(), []

    def calibrate(*arguments: Any, **__: Any) -> Any:
        calls.append(1)
        assert waits.wait(20)
        if len(calls) == 1:
            raise RuntimeError("first")
        return no_memory(*arguments)

    def progress(step: str, done: int = 0, total: int = 0) -> None:
        if step.startswith("waiting for another process"):
            waits.set()

    def run() -> str | bool:
        try:
            return convert(source, out=out, calibrate=calibrate, progress=progress).fresh
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = [future.result(timeout=60) for future in [pool.submit(run), pool.submit(run)]]
    assert set(results) == {"first", True}
    assert list(out.parent.iterdir()) == [out]


def test_three_never_hold_the_right_at_once(out: Path) -> None:
    """Each removes the lock's file when it is done; whoever waited must not go on with the removed one."""
    inside, most, guard = [0], [0], threading.Lock()

    def run(_: int) -> None:
        with exclusive(out, silent):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.002)
            with guard:
                inside[0] -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(60)))
    assert most == [1]
    assert not list(out.parent.iterdir())


def test_what_dead_processes_left_is_removed(source: str, out: Path) -> None:
    def left(name: str) -> Path:
        folder = out.with_name(f".{name}.partial-x1y2")
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "config.json").write_text("{}")
        return folder

    lock = {name: out.with_name(f".{name}.lock") for name in ("tiny", "dead", "alive")}
    for path in lock.values():
        path.touch()
    mine, dead, forgotten, alive = left("tiny"), left("dead"), left("no-lock"), left("alive")
    with lock["alive"].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        convert(source, out=out, calibrate=no_memory)
    assert [path.exists() for path in (mine, dead, forgotten, alive)] == [False, False, False, True]


def test_files_are_on_disk_before_the_folder_appears(
    source: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real: Callable[[int], None] = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert out.exists() == (synced[-1] == out.parent.name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    convert(source, out=out, calibrate=no_memory)
    assert synced[-2:] == ["checkpoint", out.parent.name]
    assert set(synced[:-2]) == {path.name for path in out.iterdir()}
