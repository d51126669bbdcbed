"""One engine over one store in a process of its own: turns, then digests of the state and the next logits.

    python engine_process.py STORE_URL SESSION PROMPT_TOKENS...

Prints one line of JSON, then waits to be killed.
"""

import asyncio
import hashlib
import json
import sys

import torch

from hope_model.checkpoint import load_checkpoint, resolve, slow_weights_sha256
from hope_model.hope import Hope
from hope_server.engine.request import EngineConfig, GenerationRequest, PromptPart, SamplingParams
from hope_server.engine.service import EngineService
from hope_server.errors import SessionNotFound
from hope_server.sessions import open_store
from hope_server.sessions.key import SessionKey
from hope_server.sessions.sealing import Keyring

ANSWER_TOKENS = 9


async def main(url: str, name: str, lengths: list[int]) -> None:
    model, _ = load_checkpoint(resolve("hope-tiny"))
    store, session = await open_store(url, Keyring([b"k" * 32])), SessionKey("tenant", name)
    digest = slow_weights_sha256(model)
    try:
        await store.meta(session)
    except SessionNotFound:
        await store.create(session, model=digest, name=None)
    service = EngineService(model, store, EngineConfig(threads=1), slow_weights_hash=lambda: digest)
    await service.start()
    for length in lengths:
        tokens = tuple((11 * i + length) % 8000 + 100 for i in range(length))
        sampling = SamplingParams(seed=length, max_tokens=ANSWER_TOKENS)
        request = GenerationRequest("e2e", session, (PromptPart("user", tokens),), sampling)
        async for _event in service.generate(request):
            pass
    print(json.dumps(await service._thread.call(lambda: digests(service, model, session))), flush=True)
    await asyncio.to_thread(sys.stdin.read)


@torch.inference_mode()
def digests(service: EngineService, model: Hope, session: SessionKey) -> dict[str, object]:
    """Of every tensor of the session's state, and of the next-token logits after one more token."""
    row = service._engine.live_row(str(session))
    logits, _ = model.prefill(torch.tensor([[100]]), row)
    state = hashlib.sha256()
    for name in sorted(row):
        state.update(row[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "position": int(row["position"]),
        "state": state.hexdigest(),
        "logits": hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(length) for length in sys.argv[3:]]))
