"""The compiled kernel's library: where it comes from, and what is not loaded."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hope_kernels.cpu import build
from hope_kernels.cpu.build import BuildError
from hope_kernels.cpu.cache import is_private, library_dir, user_cache_dir

pytestmark = pytest.mark.compiler

COMPILER = """#!/bin/sh
case "$*" in *--version*) echo pretended 1.0; exit 0;; esac
echo "$@" >> "{calls}"
while [ "$1" != -o ]; do shift; done
cp "{library}" "$2"
"""


@pytest.fixture
def no_library() -> Iterator[None]:
    """As in a process that has loaded none."""
    build.load.cache_clear()
    yield
    build.load.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_library: None) -> Path:
    """A quick one, which writes its calls into the file that is given back; the cache is empty."""
    library = Path(build.load()._name)
    build.load.cache_clear()
    calls, command = tmp_path / "calls", tmp_path / "own-cc"
    command.write_text(COMPILER.format(calls=calls, library=library))
    command.chmod(0o755)
    monkeypatch.setenv("CC", f"{command} -pretended")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def compiled(calls: Path) -> int:
    """How often it was called, by a process that has loaded nothing."""
    build.load.cache_clear()
    build.load()
    return len(calls.read_text().splitlines())


def kept(tmp_path: Path) -> Path:
    (library,) = (tmp_path / "cache" / "hope" / "kernels").glob("decode-*.so")
    return library


def test_it_is_compiled_once_for_this_user_alone(compiler: Path, tmp_path: Path) -> None:
    assert [compiled(compiler), compiled(compiler)] == [1, 1]
    library = kept(tmp_path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (library, library.parent)] == [0o700, 0o700]
    assert not list(library.parent.glob(".partial-*"))
    assert "-pretended" in compiler.read_text(), "arguments that CC names are passed on"
    assert "-ffast-math" not in compiler.read_text()


@pytest.mark.parametrize("other", ["flags", "sources", "compiler", "processor"])
def test_whatever_else_decides_the_instructions_makes_another_library(
    other: str, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(compiler)
    if other == "flags":
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
    elif other == "sources":
        changed = Path(shutil.copytree(build._HERE, tmp_path / "changed"))
        with (changed / "draw.h").open("a") as header:
            header.write("/* changed */")
        monkeypatch.setattr(build, "_HERE", changed)
    elif other == "compiler":
        command = tmp_path / "own-cc"
        command.write_text(command.read_text().replace("pretended 1.0", "pretended 1.1"))
    else:
        monkeypatch.setattr(build, "_cpu", lambda: "another")
    assert compiled(compiler) == 2
    assert len(list((tmp_path / "cache" / "hope" / "kernels").glob("decode-*.so"))) == 2


def test_while_one_compiles_others_wait(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, held = build._compile, []

    def asking(command: Sequence[str], source: str, target: Path) -> None:
        with (target.parent / ".lock").open("ab") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(target)
        plain(command, source, target)

    monkeypatch.setattr(build, "_compile", asking)
    assert compiled(compiler) == len(held) == 1


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_one_that_others_may_write_to_is_not_loaded(compiler: Path, tmp_path: Path, mode: int) -> None:
    compiled(compiler)
    kept(tmp_path).chmod(mode)
    assert compiled(compiler) == 2
    assert is_private(kept(tmp_path))


def test_a_link_is_not_loaded(compiler: Path, tmp_path: Path) -> None:
    compiled(compiler)
    library = kept(tmp_path)
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    assert compiled(compiler) == 2
    assert not library.is_symlink()


def test_somebody_elses_file_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "library.so"
    file.touch(mode=0o600)
    assert is_private(file)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert not is_private(file)


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shared = tmp_path / "hope" / "kernels"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    with library_dir() as folder:
        assert folder != shared
        assert is_private(folder)
    assert not folder.exists()


def test_without_a_cache_a_folder_serves_that_does_not_stay(
    compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/such/place")
    assert [compiled(compiler), compiled(compiler)] == [1, 2]


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_cache_dir() == Path("/home/somebody/.cache/hope")
    monkeypatch.setenv("HOME", "none")
    assert user_cache_dir() is None


@pytest.mark.usefixtures("no_library")
def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O3")
    with pytest.raises(BuildError, match="expected no-such-compiler on PATH"):
        build.load()


@pytest.mark.usefixtures("no_library")
def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "bad-cc"
    command.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho unknown option >&2\nexit 3\n')
    command.chmod(0o755)
    monkeypatch.setenv("CC", str(command))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BuildError, match="failed with status 3: unknown option"):
        build.load()
    assert not list((tmp_path / "hope" / "kernels").glob("*.so"))


@pytest.mark.parametrize("left", ["half", "nothing", "other bytes", "one bit"])
def test_one_that_is_damaged_is_compiled_again(left: str, compiler: Path, tmp_path: Path) -> None:
    compiled(compiler)
    library = kept(tmp_path)
    whole = library.read_bytes()
    damaged = {
        "half": whole[: len(whole) // 2],
        "nothing": b"",
        "other bytes": b"half of it",
        "one bit": whole[:-1] + bytes([whole[-1] ^ 1]),
    }
    library.unlink()  # this process has the former one mapped
    library.write_bytes(damaged[left])
    library.chmod(0o700)
    assert [compiled(compiler), compiled(compiler)] == [2, 2]
    assert kept(tmp_path).read_bytes() == whole


def test_a_compiler_that_makes_no_library_is_an_error(compiler: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.so"
    nothing.write_bytes(b"half of it")
    command = tmp_path / "own-cc"
    command.write_text(COMPILER.format(calls=compiler, library=nothing))
    with pytest.raises(BuildError, match=r"decode-.*\.so: .*too short"):
        compiled(compiler)
