"""The API as clients meet it: bytes on a socket, OpenAI's client, our own."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import httpx
import openai
import pytest

from hope_client import AlreadyLearned, AsyncClient, Client
from hope_client.wire import Completion

HELLO: list[dict[str, object]] = [{"role": "user", "content": "Tell me a story."}]
Journal = Callable[[Client, str], list[int]]


@contextmanager
def posted(url: str, path: str, body: dict[str, Any]) -> Iterator[BufferedReader]:
    """The answer's bytes to one POST, written by hand as `curl` writes it."""
    address = httpx.URL(url)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        with connection.makefile("rb") as answer:
            yield answer


def events(answer: BufferedReader) -> Iterator[str]:
    """The data of each event of a chunked stream; every other line of it must be empty."""
    while size := int(answer.readline(), 16):
        *lines, rest = answer.read(size).split(b"\n")
        assert rest == b"", "an event was cut by a chunk"
        for line in lines:
            if line:
                assert line.startswith(b"data: "), line
                yield line.removeprefix(b"data: ").decode()
        assert answer.readline() == b"\r\n"
    assert answer.readline() == b"\r\n"
    assert answer.read() == b""


def test_a_stream_on_a_bare_socket(server: Any) -> None:
    body = {"messages": HELLO, "stream": True, "max_tokens": 12, "ignore_eos": True, "seed": 1}
    with posted(server.url, "/v1/chat/completions", body) as answer:
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = dict(
            line.decode().strip().lower().split(": ", 1) for line in iter(answer.readline, b"\r\n")
        )
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["x-request-id"]
        *chunks, done = events(answer)
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert "".join(choice["delta"].get("content", "") for choice in choices)


def test_a_stream_has_the_text_of_a_whole_answer(client: Client) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "seed": 5, "temperature": 0.9, "top_k": 50, "top_p": 0.95}
    whole = client.completions("Once upon a time", **options)
    with client.completions("Once upon a time", stream=True, include_usage=True, **options) as stream:
        assert "".join(stream.text()) == whole.choices[0].text
    assert stream.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_sampling_options_take_effect(client: Client) -> None:
    def text(**options: Any) -> str:
        answer: Completion = client.completions("It was", max_tokens=24, ignore_eos=True, **options)
        return answer.choices[0].text

    greedy = text(temperature=0)
    assert greedy == text(temperature=0, seed=9)
    assert greedy == text(top_k=1, seed=3), "the one best token, whatever the seed"
    assert greedy == text(top_p=1e-9, seed=3)
    assert text(temperature=2, seed=1) == text(temperature=2, seed=1)
    assert text(temperature=2, seed=1) != text(temperature=2, seed=2)


def test_a_stop_string_ends_the_answer_before_it(client: Client) -> None:
    options: dict[str, Any] = {"max_tokens": 48, "seed": 4, "temperature": 1.5, "ignore_eos": True}
    whole = client.completions("It was", **options).choices[0].text
    stop = whole[len(whole) // 2 :][:3]
    stopped = client.completions("It was", stop=[stop], **options)
    assert stopped.choices[0].text == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_chat_turn_reads_only_what_is_new(client: Client, journal: Journal) -> None:
    session = client.sessions.create("story").id
    history = list(HELLO)
    first = client.chat(history, session_id=session, max_tokens=10, temperature=0)
    history += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And then?"},
    ]
    read = len(journal(client, session))
    second = client.chat(history, session_id=session, max_tokens=10, temperature=0)
    assert second.usage is not None
    assert second.usage.prompt_tokens <= len("And then?") + 4
    tokens = journal(client, session)
    assert len(tokens) == read + second.usage.total_tokens
    events = client.sessions.events(session, after=read).events
    assert [event.origin for event in events][-1] == "model"
    assert "And then?" in "".join(event.text or "" for event in events)
    assert client.sessions.get(session).tokens == len(tokens)


def test_the_session_may_be_named_in_the_header_or_the_body(server: Any, client: Client) -> None:
    session = client.sessions.create().id
    body = {"prompt": "a b c", "max_tokens": 2, "ignore_eos": True}
    url = f"{server.url}/v1/completions"
    by_header = httpx.post(url, json=body, headers={"X-Session-ID": session}, timeout=60)
    by_body = httpx.post(url, json={**body, "session_id": session}, timeout=60)
    used = [answer.json()["usage"]["total_tokens"] for answer in (by_header, by_body)]
    assert client.sessions.get(session).tokens == sum(used)


def test_a_request_without_a_session_leaves_nothing(client: Client) -> None:
    before = client.sessions.list(limit=1000).data
    first = client.completions("The sea", max_tokens=16, temperature=0)
    again = client.completions("The sea", max_tokens=16, temperature=0)
    assert first.choices == again.choices
    assert client.sessions.list(limit=1000).data == before


def test_a_key_is_learned_once(client: Client) -> None:
    session = client.sessions.create().id
    options: dict[str, Any] = {"session_id": session, "idempotency_key": "turn-1", "max_tokens": 4}
    client.completions("a b c", **options)
    tokens = client.sessions.get(session).tokens
    with pytest.raises(AlreadyLearned) as known:
        client.completions("a b c", **options)
    assert (known.value.first_seq, known.value.last_seq) == (1, tokens)
    assert client.sessions.get(session).tokens == tokens


def test_a_session_goes_through_its_life(client: Client) -> None:
    session = client.sessions.create("mine")
    assert client.sessions.get(session.id) == session
    assert session in client.sessions.list(limit=1000).data
    client.completions([200] * 300, session_id=session.id, max_tokens=1, ignore_eos=True)
    assert [level.tokens for level in client.sessions.levels(session.id).levels] == [301] * 5
    reset = client.sessions.reset(session.id)
    assert (reset.seq, reset.tokens) == (302, 0)
    assert all(level.drift_ratio == 0 for level in client.sessions.levels(session.id).levels)
    assert client.sessions.events(session.id, after=301).events[0].kind == "reset"
    assert client.sessions.delete(session.id).deleted
    assert session.id not in [one.id for one in client.sessions.list(limit=1000).data]


def test_levels_and_events_have_exactly_the_fields_that_are_promised(server: Any, client: Client) -> None:
    session = client.sessions.create().id
    client.completions("a b c", session_id=session, max_tokens=2, ignore_eos=True)
    base = f"{server.url}/v1/sessions/{session}"
    levels = httpx.get(f"{base}/levels", timeout=60).json()
    assert levels.keys() == {"levels"}
    fields = {"name", "period", "tokens", "writes", "refused", "frequency", "drift_ratio", "bytes"}
    assert all(level.keys() == fields for level in levels["levels"])
    events = httpx.get(f"{base}/events", params={"after": 0}, timeout=60).json()
    assert events.keys() == {"events", "head"}
    assert all(
        event.keys() == {"seq", "kind", "token", "text", "origin", "learn"} for event in events["events"]
    )
    assert [event["seq"] for event in events["events"]] == list(range(1, events["head"] + 1))


async def test_the_asynchronous_client(server: Any) -> None:
    async with AsyncClient(server.url, timeout=300) as client:
        session = await client.sessions.create()
        stream = await client.chat("Hello", session_id=session.id, stream=True, max_tokens=8)
        async with stream:
            text = "".join([piece async for piece in stream.text()])
        events = await client.sessions.events(session.id)
        said = "".join(event.text or "" for event in events.events if event.origin == "model")
        assert said == text


async def test_openai_s_client(server: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300) as client:
        (model,) = (await client.models.list()).data
        session = (await client.post("/sessions", cast_to=object, body={}))["id"]  # type: ignore[index]
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        answer = await client.chat.completions.create(
            model=model.id, messages=messages, max_tokens=8, extra_headers={"X-Session-ID": session}
        )
        messages.append(answer.choices[0].message.to_dict())  # type: ignore[arg-type]
        messages.append({"role": "user", "content": "Go on"})
        stream = await client.chat.completions.create(
            model=model.id,
            messages=messages,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"session_id": session},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens <= len("Go on") + 4
        text = await client.completions.create(model=model.id, prompt="The", max_tokens=5, seed=1)
        assert text.usage is not None
        assert 1 <= text.usage.completion_tokens <= 5
        with pytest.raises(openai.NotFoundError) as missing:
            await client.completions.create(model="gpt-4", prompt="a")
        assert missing.value.code == "model_not_found"


def test_lm_eval_s_requests_score_what_greedy_decoding_writes(
    server: Any, client: Client, journal: Journal
) -> None:
    """What its local-completions sends and computes: alone and in a batch the same, and greedy is greedy."""
    contexts = ([300, 411, 522], [700, 801, 902, 1003])
    rows = [(context, [500 + place, 501 + place]) for place, context in enumerate(contexts)]
    for context in contexts:
        session = client.sessions.create().id
        client.completions(context, session_id=session, max_tokens=3, temperature=0, ignore_eos=True)
        rows.append((context, journal(client, session)[len(context) :]))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as official:
        together = lm_eval_scores(official, rows)
        assert [lm_eval_scores(official, [row])[0] for row in rows] == together
    assert [greedy for _, greedy in together] == [False, False, True, True]
    assert all(total < 0 for total, _ in together)


def lm_eval_scores(
    client: openai.OpenAI, rows: list[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Log-probability of each row's continuation, and whether it is the greedy one."""
    answer = client.completions.create(
        model="hope-tiny",
        prompt=[context + rest for context, rest in rows],
        max_tokens=1,
        temperature=0,
        logprobs=1,
        seed=1234,
        echo=True,
    )
    found = []
    for (context, _), choice in zip(rows, answer.choices, strict=True):
        assert choice.logprobs is not None
        own = (choice.logprobs.token_logprobs or [])[len(context) : -1]
        top = (choice.logprobs.top_logprobs or [])[len(context) : -1]
        greedy = all(one == max(each.values()) for one, each in zip(own, top, strict=True))
        found.append((sum(own), greedy))
    return found


def test_an_answer_keeps_to_its_schema(server: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer", "maximum": 99}},
        "required": ["colour", "size"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "ball", "schema": schema}}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        for seed in range(3):
            answer = client.chat.completions.create(
                model="hope-tiny",
                messages=[{"role": "user", "content": "A ball."}],
                response_format=form,
                seed=seed,
                max_completion_tokens=200,
            )
            found = json.loads(answer.choices[0].message.content or "")
            assert found["colour"] in ("red", "blue")
            assert found["size"] <= 99
            assert answer.choices[0].finish_reason == "stop"
