"""A state saved at any offset goes on in a new process bit for bit (hope.md §3.1 rows 1, 4; §9.2 b)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.small import COMBINATIONS, Parts, random_tokens, small_model
from torch import Tensor

CHILD = Path(__file__).with_name("resume_child.py")
OFFSETS = range(1, 36)
"""Two blocks and a bit: inside chunks, inside convolution windows, at boundaries and beside them."""
KINDS = COMBINATIONS

Logits = dict[str, Tensor]


@pytest.fixture(scope="module")
def here_and_there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Logits, Logits]:
    """Logits after each offset: from the state in memory here, and from its file in one other process."""
    folder, here = tmp_path_factory.mktemp("resume"), {}
    for parts in KINDS:
        model, tokens = small_model(parts, torch.float32), random_tokens(1, OFFSETS.stop + 11)
        own = folder / str(parts)
        own.mkdir()
        (own / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
        save_file(model.state_dict(), own / "weights.safetensors")
        save_file({"tokens": tokens}, own / "tokens.safetensors")
        state = model.initial_state(1)
        for offset in OFFSETS:
            _, state = model.step(tokens[:, offset - 1], state)
            stored = {name: tensor.contiguous() for name, tensor in state.items()}
            save_file(stored, own / f"state-{offset}.safetensors")
            here[f"{parts}/{offset}/step"] = model.step(tokens[:, offset], state)[0]
            here[f"{parts}/{offset}/run"] = model(tokens[:, offset : offset + 11], state)[0]
    child = [sys.executable, str(CHILD), str(folder), str(torch.get_num_threads())]
    subprocess.run(child, check=True, timeout=300)
    return here, load_file(folder / "logits.safetensors")


@pytest.mark.parametrize("how", ["step", "run"])
@pytest.mark.parametrize("parts", KINDS, ids=str)
def test_a_new_process_gives_the_same_bits_at_any_offset(
    parts: Parts, how: str, here_and_there: tuple[Logits, Logits]
) -> None:
    here, there = here_and_there
    names = [f"{parts}/{offset}/{how}" for offset in OFFSETS]
    assert [name for name in names if not torch.equal(here[name], there[name])] == []


def test_every_offset_gives_other_logits(here_and_there: tuple[Logits, Logits]) -> None:
    """The comparison above can fail: no two states foretell the same."""
    _, there = here_and_there
    seen = [there[f"{KINDS[0]}/{offset}/step"] for offset in OFFSETS]
    assert len({tuple(logits.flatten().tolist()) for logits in seen}) == len(OFFSETS)
