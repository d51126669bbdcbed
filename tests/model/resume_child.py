"""A process of its own: loads models and states from files, reads on, and writes the logits to a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hope_model.config import HopeConfig
from hope_model.hope import Hope


def main(folder: Path) -> None:
    logits = {}
    for own in sorted(folder.iterdir()):
        model = Hope(HopeConfig.from_dict(json.loads((own / "config.json").read_text(encoding="utf-8"))))
        model.load_state_dict(load_file(own / "weights.safetensors"))
        model.requires_grad_(False)
        tokens = load_file(own / "tokens.safetensors")["tokens"]
        for path in own.glob("state-*.safetensors"):
            state = load_file(path)
            offset = int(state["position"])
            logits[f"{own.name}/{offset}/step"] = model.step(tokens[:, offset], state)[0]
            logits[f"{own.name}/{offset}/run"] = model(tokens[:, offset : offset + 11], state)[0]
    save_file(logits, folder / "logits.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    main(Path(sys.argv[1]))
