"""What stops a server at its start: an error that names the setting, and nothing left running."""

import contextlib
import gc
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.attention.tiny import config, random_weights, tiny_model
from tests.pretend_gpu import GPU, pretend_gpu

from hope_model.attention.model import HopeAttention
from hope_model.checkpoint import resolve, save_checkpoint
from hope_model.config import HopeConfig
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_server import models, serve
from hope_server.config import ServerConfig
from hope_server.errors import HopeError, StartupError
from hope_server.models import load_served
from hope_server.sessions import erasure
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.sealing import Keyring
from hope_server.tenants.key_file import KeyFile

StartValkey = Callable[..., str]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays pytest's."""
    monkeypatch.setattr(serve, "set_up", lambda level, log_format: None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is complete but small."""
    directory = tmp_path_factory.mktemp("checkpoint")
    config = HopeConfig("small", width=64, layers=1, heads=1, mlp_width=64, cms_width=16)
    tokenizer = Tokenizer.load(resolve("hope-tiny") / "tokenizer.json", vocab_size=config.vocab_size)
    save_checkpoint(directory, Hope(config), tokenizer, dtype=torch.bfloat16)
    return directory


@pytest.fixture
def checkpoint(small: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small, tmp_path / "checkpoint"))


def refusal(**settings: object) -> HopeError:
    """The error of a server that does not start."""
    with pytest.raises(HopeError) as refused:
        serve.run(ServerConfig.load({"port": 0, **settings}))
    return refused.value


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refusal(port=port, data_dir=tmp_path)
    assert error.param == "port"
    assert f"--port (HOPE_PORT): cannot listen on http://127.0.0.1:{port}" in str(error)


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys").create("acme")
    error = refusal(host="203.0.113.1", data_dir=tmp_path)
    assert error.param == "host"
    assert "--host (HOPE_HOST): cannot listen on" in str(error)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_an_address_that_others_reach_needs_a_key_in_force(host: str, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    for _ in range(2):
        error = refusal(host=host, data_dir=tmp_path)
        assert error.param == "host"
        assert "hope keys create" in str(error)
        record, _ = keys.create("acme")
        keys.revoke(record.id)
    keys.create("acme")
    serve.require_keys_beyond_this_machine(host, keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str, tmp_path: Path) -> None:
    serve.require_keys_beyond_this_machine(host, KeyFile(tmp_path / "keys"))


def test_keys_that_others_may_read_stop_the_start(tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys").create("acme")
    (tmp_path / "keys" / "keys.json").chmod(0o640)
    error = refusal(data_dir=tmp_path)
    assert error.param == "keys_dir"
    assert "expected mode 0600, found 0640" in str(error)


def test_an_unknown_model(tmp_path: Path) -> None:
    error = refusal(model="hope-huge", data_dir=tmp_path)
    assert error.param == "model"
    assert "--model (HOPE_MODEL): " in str(error)
    assert "hope-tiny" in str(error)


def other_shape(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["model"]["mlp_width"] = 128
    path.write_text(json.dumps(config))


def other_format(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"format": 99, "family": "hope"}')


def no_family(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"format": 1}')


def other_family(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "family": "hope_attention"}))


def impossible(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["model"]["chunk"] = 100
    path.write_text(json.dumps(config))


def not_json(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(b"\xff{")


def no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def cut_weights(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", 10_000)


def nan_weights(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["embedding.weight"][5, 7] = float("nan")
    save_file(weights, checkpoint / "model.safetensors")


def no_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (other_shape, "does not match its config"),
        (other_format, "expected format 1"),
        (no_family, "expected a config.json that names a family"),
        (other_family, "HopeAttentionConfig: unknown fields"),
        (impossible, "chunk: period 100"),
        (not_json, "config.json: cannot be read"),
        (no_weights, "model.safetensors: cannot be read"),
        (cut_weights, "model.safetensors: cannot be read"),
        (nan_weights, "'embedding.weight' holds values that are not finite"),
        (no_tokenizer, "tokenizer.json"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(checkpoint)
    error = refusal(model=str(checkpoint), data_dir=tmp_path / "data")
    assert error.param == "model"
    assert "--model (HOPE_MODEL): " in str(error)
    assert said in str(error)
    assert not (tmp_path / "data").exists(), "the model is looked at before anything is written"


def test_a_redis_that_nobody_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = refusal(model=str(small), redis_url=f"redis://127.0.0.1:{port}")
    assert error.param == "redis_url"
    assert "--redis-url (HOPE_REDIS_URL): no Redis server answers" in str(error)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts(small: Path, start_valkey: StartValkey, policy: str) -> None:
    error = refusal(model=str(small), redis_url=start_valkey("--maxmemory-policy", policy))
    assert (error.param, error.code) == ("redis_url", "store_config_error")
    assert f"maxmemory-policy noeviction, found {policy}" in str(error)


def test_a_redis_of_another_kind(small: Path) -> None:
    error = refusal(model=str(small), redis_url="http://127.0.0.1:1")
    assert error.param == "redis_url"
    assert "must start with one of" in str(error)


def test_a_data_directory_that_is_none(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    error = refusal(model=str(small), data_dir=tmp_path / "file")
    assert error.param == "data_dir"
    assert str(tmp_path / "file") in str(error)


def test_a_model_that_cannot_do_without_learning(small: Path, tmp_path: Path) -> None:
    error = refusal(model=str(small), learn=False, data_dir=tmp_path / "data")
    assert error.param == "learn"
    assert str(error).startswith("--learn (HOPE_LEARN): small reads with its memories")
    assert "\n" not in str(error)


def test_kernels_that_cannot_repeat_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "unrepeatable_products", lambda model: [f"down {torch.get_num_threads()}"])
    threads = torch.get_num_threads()
    with pytest.raises(StartupError) as refused:
        models._check_repeatable(tiny_model(), threads + 1)
    assert refused.value.param == "threads"
    assert f"with {threads + 1} threads" in str(refused.value)
    assert f"(down {threads + 1})" in str(refused.value)
    assert "try --threads 1, or ONEDNN" in str(refused.value)
    with pytest.raises(StartupError, match="try ONEDNN_MAX_CPU_ISA="):
        models._check_repeatable(tiny_model(), 1)
    assert torch.get_num_threads() == threads


def test_a_gpu_that_cannot_repeat_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "unrepeatable_products", lambda model: ["down"])
    with pretend_gpu(), torch.inference_mode(False):
        model = HopeAttention(config(), random_weights(config()), device=GPU)
        with pytest.raises(StartupError, match=r"this device's kernels .*: try --device cpu$") as refused:
            models._check_repeatable(model, 1)
    assert refused.value.param == "device"


def test_a_device_that_is_not_there(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    error = refusal(device="cuda:1", model=str(small), data_dir=tmp_path / "data")
    assert error.param == "device"
    assert "cuda:1 is not there: torch" in str(error)
    assert not (tmp_path / "data").exists()


def test_a_model_goes_to_its_device_and_keeps_its_digest(small: Path) -> None:
    with pretend_gpu():
        served = load_served(str(small), learning=True, threads=1, device=GPU)
        assert isinstance(served.model, Hope)
        assert {tensor.device for tensor in served.model.state_dict().values()} == {GPU}
        assert served.model.initial_state(1)["position"].device == GPU
        assert served.digest() == load_served(str(small), learning=True, threads=1).digest()


def test_weights_that_do_not_fit_name_the_model(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_args: object, **_kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models, "load_checkpoint", no_room)
    with pytest.raises(StartupError, match=r"--model .*its weights do not fit") as refused:
        load_served(str(small), learning=True, threads=1)
    assert refused.value.param == "model"


def test_slow_weights_that_changed_are_noticed_at_the_end(small: Path) -> None:
    served = load_served(str(small), learning=True, threads=1)
    digest = served.digest()
    assert serve._unchanged(served, digest)
    assert isinstance(served.model, Hope)
    served.model.embedding.weight.view(-1)[0] += 1
    assert not serve._unchanged(served, digest)


async def test_the_server_s_own_valkey_is_set_and_hears_of_deletions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "STOP_S", 60.0)
    config = ServerConfig.load({"data_dir": tmp_path, "appendfsync": "everysec"})
    session = SessionKey("tenant", "s")
    async with contextlib.AsyncExitStack() as cleanup:
        store = await serve._open_store(config, Keyring([b"k" * 32]), cleanup)
        assert isinstance(store, RedisStore)
        assert await store._link.setting("appendfsync") == "everysec"
        await store.create(session, model="m", name=None)
        fence, _ = await store.acquire(session, nonce="a" * 32, ttl_s=60)
        due = tmp_path / "valkey" / "erasure-due"
        assert not due.exists()
        await store.delete(session, fence)
        assert due.exists()
    assert not due.exists()


def test_what_was_loaded_is_no_longer_collected() -> None:
    before = gc.get_freeze_count()
    try:
        serve._keep_for_life()
        assert gc.get_freeze_count() > before + 10_000
    finally:
        gc.unfreeze()
