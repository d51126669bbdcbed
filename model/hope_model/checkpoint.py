"""Checkpoints to serve: a folder with config.json, model.safetensors and tokenizer.json."""

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.errors import CheckpointError, ConfigError, TokenizerError
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

FORMAT = 1
MAX_CONFIG_BYTES = 1 << 20
SHIPPED = ("hope-tiny",)
HOST = torch.device("cpu")


def resolve(name: str) -> Path:
    """Folder of a checkpoint: a shipped name, or a path.

    Raises:
        CheckpointError: neither; the message lists the shipped names.
    """
    if name in SHIPPED:
        return Path(str(resources.files("hope_model") / "checkpoints" / name))
    path = Path(name).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"model: expected a folder or one of {', '.join(SHIPPED)}, found {name!r}")
    return path


def save_checkpoint(directory: Path, model: Hope, tokenizer: Tokenizer, *, dtype: torch.dtype) -> None:
    """Write ``model`` with floating weights in ``dtype``."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors")
    tokenizer.save(directory / "tokenizer.json")
    config = {"format": FORMAT, "family": "hope", "model": model.config.to_dict()}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(directory: Path, *, device: torch.device = HOST) -> tuple[Hope, Tokenizer]:
    """Read a checkpoint; weights become fp32, go to ``device`` and are frozen.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and configuration do not belong together.
    """
    config = _read_config(directory / "config.json")
    require_layers(directory / "model.safetensors", config.layers * (1 + len(config.levels)))
    try:
        with torch.device("meta"):
            model = Hope(config)
    except ConfigError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    weights = read_weights(
        directory / "model.safetensors", {k: v.shape for k, v in model.state_dict().items()}
    )
    model.load_state_dict({name: tensor.to(device) for name, tensor in weights.items()}, assign=True)
    try:
        tokenizer = Tokenizer.load(directory / "tokenizer.json", vocab_size=config.vocab_size)
    except TokenizerError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    return model.requires_grad_(False).eval(), tokenizer


def slow_weights_sha256(model: Hope) -> str:
    """Hex digest over the configuration and every slow weight's name, type, shape and bytes, by name."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def family_of(directory: Path) -> str:
    """The family that a checkpoint's config.json names; raises CheckpointError."""
    family = read_config_file(directory / "config.json").get("family")
    if not isinstance(family, str):
        raise CheckpointError(f"{directory}: expected a config.json that names a family, found none")
    return family


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of a config.json of at most 1 MiB; raises CheckpointError."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: expected at most {MAX_CONFIG_BYTES} bytes, found {len(raw)}")
        data = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected fields by name, found {str(data)[:80]}")
    return data


def _read_config(path: Path) -> HopeConfig:
    data = read_config_file(path)
    if data.get("format") != FORMAT or data.get("family") != "hope":
        raise CheckpointError(f"{path}: expected format {FORMAT} of family 'hope', found {str(data)[:80]}")
    try:
        return HopeConfig.from_dict(data["model"])
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def require_layers(path: Path, layers: int) -> None:
    """Raises CheckpointError for more layers than the file has tensors: no such model is ever spelled out."""
    try:
        with safe_open(path, framework="pt") as file:
            found = len(file.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if layers > found:
        raise CheckpointError(
            f"{path}: does not match its config: expected tensors of {layers} layers and levels, "
            f"found {found} tensors"
        )


def read_weights(path: Path, expected: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors by name in fp32, names and shapes compared with the model's before any is read.

    Raises:
        CheckpointError: the file cannot be read, does not match, or holds values that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            if wrong:
                name = wrong[0]
                raise CheckpointError(
                    f"{path}: does not match its config at {len(wrong)} tensors, first {name!r}: "
                    f"expected {_shape(expected.get(name))}, found {_shape(found.get(name))}"
                )
            _require_floating(path, {name: file.get_slice(name).get_dtype() for name in expected})
            # Copied: what the library gives is the file's own memory. A writer of the file would change it,
            # and its alignment changes the last bits of products.
            weights = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in expected}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name!r} holds values that are not finite")
    return weights


def _require_floating(path: Path, dtypes: Mapping[str, str]) -> None:
    """Raises CheckpointError for weights that fp32 would change silently; token ids are integers."""
    for name, dtype in dtypes.items():
        if not dtype.startswith(("F", "BF")) and not name.startswith("memory."):
            raise CheckpointError(f"{path}: {name!r}: expected floating point, found {dtype}")


def _shape(shape: torch.Size | None) -> str:
    return "no such tensor" if shape is None else str(list(shape))
