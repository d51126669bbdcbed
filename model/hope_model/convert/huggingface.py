"""A folder in Hugging Face's layout as a source."""

import hashlib
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from hope_model.attention.config import BackboneConfig
from hope_model.convert.fields import Fields
from hope_model.convert.files import read_fields, read_text, sha256_of
from hope_model.convert.huggingface_config import backbone_from
from hope_model.convert.progress import Progress
from hope_model.convert.shards import Shards
from hope_model.convert.source import Pretrained, TurnTokens, local_path, model_name
from hope_model.convert.tensors import Shape
from hope_model.errors import ConversionError
from hope_model.pretrained_tokenizer import MAX_FILE_BYTES, parse_backend

MAX_CONFIG_BYTES = 8 << 20
MAX_TEMPLATE_BYTES = 1 << 20
_README_BYTES = 1 << 20
_SETTINGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_TEMPLATE = "chat_template.jinja"


class FolderSource:
    """config.json, safetensors and tokenizer.json in one folder."""

    def __init__(self, reference: str) -> None:
        self._folder = local_path(reference).resolve()
        self.name = model_name(self._folder.name)
        found = read_fields(self._folder / "config.json", MAX_CONFIG_BYTES)
        if "family" in found and "format" in found:
            raise ConversionError(f"{reference}: is converted already: serve it with --model {reference}")

    @staticmethod
    def accepts(reference: str) -> bool:
        return local_path(reference).is_dir()

    def identity(self, progress: Progress) -> dict[str, Any]:
        files = [self._folder / name for name in (*_SETTINGS, _TEMPLATE)]
        files = [path for path in files if path.is_file()] + Shards(self._folder).files
        lines = [f"{path.name} {sha256_of(path, progress)}\n" for path in files]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        return {"kind": "folder", "name": self._folder.name, "sha256": digest}

    def open(self, scratch: Path, progress: Progress) -> Pretrained:
        folder = self._folder
        config = read_fields(folder / "config.json", MAX_CONFIG_BYTES)
        backbone = backbone_from(config)
        generation = read_fields(folder / "generation_config.json", MAX_CONFIG_BYTES, required=False)
        settings = read_fields(folder / "tokenizer_config.json", MAX_CONFIG_BYTES, required=False)
        tokenizer_json = read_text(folder / "tokenizer.json", MAX_FILE_BYTES)
        backend = parse_backend(tokenizer_json)
        shards = Shards(folder)
        return Pretrained(
            backbone=backbone,
            shapes=_without_spares(shards.shapes, backbone),
            read=shards.read,
            tokenizer_json=tokenizer_json,
            chat_template=_chat_template(folder, settings),
            tokens=_turn_tokens(backend, config, generation, settings),
            licence=_licence(folder / "README.md"),
        )


def _without_spares(shapes: dict[str, Shape], backbone: BackboneConfig) -> dict[str, Shape]:
    """Without what follows from other tensors: the head of a tied model, frequencies of positions."""
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.endswith("rotary_emb.inv_freq") and not (backbone.tied_head and name == "lm_head.weight")
    }


def _turn_tokens(backend: Backend, config: Fields, generation: Fields, settings: Fields) -> TurnTokens:
    by_id = [token for fields in (generation, config) for token in _ids(fields, "eos_token_id")]
    eos = [*_named(backend, settings, "eos"), *by_id]
    if not eos:
        raise ConversionError("config.json: eos_token_id: expected the id that ends a turn, found none")
    bos = next(iter([*_named(backend, settings, "bos"), *_ids(config, "bos_token_id")]), None)
    # Most tokenizers say by their template for special tokens alone that they start with one.
    added = backend.encode("a").ids[:1] == [bos]
    add_bos = bos is not None and settings.flag("add_bos_token", added)
    return TurnTokens(tuple(dict.fromkeys(eos)), bos, add_bos)


def _ids(fields: Fields, name: str) -> list[int]:
    value = fields.get(name)
    return [fields.integer(name)] if type(value) is int else fields.items(name, int) if value else []


def _named(backend: Backend, settings: Fields, role: str) -> list[int]:
    """The id of the token that tokenizer_config.json names for a role, as a text or as an object."""
    value = settings.get(f"{role}_token")
    text = value.get("content") if isinstance(value, dict) else value
    token = backend.token_to_id(text) if isinstance(text, str) else None
    return [] if token is None else [token]


def _chat_template(folder: Path, settings: Fields) -> str | None:
    if (folder / _TEMPLATE).is_file():
        return read_text(folder / _TEMPLATE, MAX_TEMPLATE_BYTES)
    found = settings.get("chat_template")
    if found is None or isinstance(found, str):
        return found
    for item in settings.items("chat_template", dict):
        if item.get("name") == "default" and isinstance(item.get("template"), str):
            return str(item["template"])
    raise settings.refusal("chat_template", "one named default", found)


def _licence(readme: Path) -> str | None:
    """As the README's front matter gives it."""
    if not readme.is_file() or readme.stat().st_size > _README_BYTES:
        return None
    front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    line = re.search(r"^license:[ \t]*([\w.+-]{1,64})[ \t]*$", front[1], re.MULTILINE) if front else None
    return line[1] if line else None
