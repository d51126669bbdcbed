"""Compiles a kernel with the machine's own compiler, once for a machine and a user."""

import ctypes
import fcntl
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from hope_kernels.cpu import layout, reader_layout, tangent_layout
from hope_kernels.cpu.cache import is_private, library_dir

FLAGS = (
    *("-std=gnu11", "-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno"),
    *("-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-Wno-psabi"),
)
"""No -ffast-math and no contraction: a sum keeps its order and its roundings wherever it is inlined."""
COMPILERS = ("cc", "gcc", "clang")
LIMIT_S = 60.0
"""For the compiler. It takes 2 s, and is better waited for on a busy machine than done without."""

TYPED = {"decode": layout.typed, "attention": reader_layout.typed, "tangent": tangent_layout.typed}
"""By source, what gives its functions their types."""

_DIGEST = sha256().digest_size
_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent


class BuildError(RuntimeError):
    """There is no compiled kernel to be had on this machine."""


_loaded: list[ctypes.CDLL] = []


def loaded() -> ctypes.CDLL | None:
    """The library that was loaded last of those that can draw, if there is one."""
    return _loaded[-1] if _loaded else None


@cache
def load(source: str = "decode") -> ctypes.CDLL:
    """The library compiled from one of :data:`TYPED`, from the cache if it is there.

    Raises:
        BuildError: no compiler, a compiler that fails, or a library that cannot be loaded.
    """
    compiler = find_compiler()
    name = f"{source}-{_fingerprint(compiler)}.so"
    try:
        with library_dir() as folder:
            path = folder / name
            with _alone(folder):
                if not is_private(path) or not _is_whole(path):
                    _compile(compiler, source, path)
            library = TYPED[source](ctypes.CDLL(str(path)))
    except OSError as error:
        raise BuildError(f"{name}: {error}") from error
    if hasattr(library, "hope_draw"):
        _loaded[:] = [library]
    return library


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process compiles, others wait for it. Raises OSError."""
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_compiler() -> list[str]:
    """$CC, which may have arguments, or the first that is found. Raises BuildError without one."""
    chosen = os.environ.get("CC", "").split()
    for command in [chosen] if chosen else [[name] for name in COMPILERS]:
        found = shutil.which(command[0])
        if found is not None:
            return [found, *command[1:]]
    raise BuildError(f"no C compiler: expected {' or '.join(chosen[:1] or COMPILERS)} on PATH")


def _fingerprint(compiler: Sequence[str]) -> str:
    """Of all that decides the library's instructions."""
    parts = [path.read_bytes() for path in sorted(_HERE.glob("*.[ch]"))]
    version = _run([*compiler, "--version"], "says no version")
    parts += [part.encode() for part in (*compiler, *FLAGS, version, platform.machine(), _cpu())]
    digest = sha256()
    for part in parts:
        digest.update(f"{len(part)} ".encode() + part)
    return digest.hexdigest()[:32]


def _cpu() -> str:
    """What -march=native looks at: model and features of the first core, where the system tells."""
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.split("\t")[0].split(":")[0].strip() in wanted)


def _is_whole(path: Path) -> bool:
    """Whether the library is followed by its digest: one cut short would end the process that touches it."""
    held = path.read_bytes()
    return sha256(held[:-_DIGEST]).digest() == held[-_DIGEST:]


def _compile(compiler: Sequence[str], source: str, target: Path) -> None:
    """``target`` appears whole or not at all, its digest at its end, readable and executable by its owner
    alone.
    """
    started = time.monotonic()
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        _run([*compiler, *FLAGS, "-o", name, str(_HERE / f"{source}.c"), "-lm"], "failed")
        os.chmod(name, 0o700)
        with open(name, "r+b") as file:
            digest = sha256(file.read()).digest()
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    _log.info("compiled %s in %.1f s", target, time.monotonic() - started)


def _run(command: list[str], what: str) -> str:
    """What it prints. Raises BuildError with the compiler's own words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} {what}: {error}") from error
    if done.returncode:
        raise BuildError(f"{command[0]} {what} with status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
