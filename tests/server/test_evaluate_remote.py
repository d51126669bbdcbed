"""``hope eval`` on a server, seen from the wire: forks for questions, and what a failing server leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hope_client import Client
from hope_model.errors import EvaluationError
from hope_model.evaluate.sessions.asking import Question
from hope_server import evaluate_remote
from hope_server.cli import BAD_SETTING, main
from hope_server.evaluate_remote import RemoteSubject

URL = "http://server"
QUESTION = Question((1, 2), ((5, 6), (7,)), 4)
Answer = Callable[[httpx.Request], httpx.Response]


class Wire:
    """A server by its answers. calls: what it was asked, "method path", session and body. broken: after so
    many of them, those of /tokenize not counted, it is gone.
    """

    def __init__(self, *, broken: int | None = None, start: list[int] | None = None) -> None:
        self.calls: list[tuple[str, str, dict[str, object]]] = []
        self.live: set[str] = set()
        self._broken, self._start, self._made = broken, start or [], 0

    def client(self) -> Client:
        return Client(URL, transport=httpx.MockTransport(self), max_retries=0)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        counted = [call for call, _, _ in self.calls if not call.endswith("/tokenize")]
        if self._broken is not None and len(counted) >= self._broken:
            raise httpx.ConnectError("gone", request=request)
        body = json.loads(request.content or b"{}")
        session = request.headers.get("X-Session-ID", request.url.path)
        self.calls.append((f"{request.method} {request.url.path}", session, body))
        return httpx.Response(200, json=self._answer(request.method, request.url.path, body))

    def of(self, call: str) -> list[tuple[str, dict[str, object]]]:
        return [(session, body) for name, session, body in self.calls if name == call]

    def _answer(self, method: str, path: str, body: dict[str, object]) -> dict[str, object]:
        if path == "/tokenize":
            ids = [*self._start, *str(body.get("prompt", "")).encode()]
            return {"count": len(ids), "max_model_len": 99, "tokens": ids}
        if path == "/v1/models":
            return {"data": [{"id": "tiny", "created": 1}]}
        if method == "DELETE":
            self.live.remove(path.rpartition("/")[2])
            return {"id": "x", "object": "session.deleted", "deleted": True}
        if path == "/v1/completions":
            return self._completion(body)
        self._made += 1
        self.live.add(f"s{self._made}")
        return {"id": f"s{self._made}", "created_at": 1.0, "model": "tiny", "seq": 0, "tokens": 0}

    def _completion(self, body: dict[str, object]) -> dict[str, object]:
        prompt = body["prompt"]
        assert isinstance(prompt, list)
        logprobs = None
        if body.get("echo"):
            values = [None, *(-float(token) for token in prompt[1:])]
            empty = [None] * len(prompt)
            offsets = [0] * len(prompt)
            logprobs = {
                **{"tokens": ["x"] * len(prompt), "token_logprobs": values},
                **{"top_logprobs": empty, "text_offset": offsets},
            }
        choice = {"index": 0, "text": " said\nmore", "logprobs": logprobs, "finish_reason": "length"}
        return {"id": "c", "created": 1, "model": "tiny", "choices": [choice]}


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def subject(wire: Wire) -> Iterator[RemoteSubject]:
    with wire.client() as client:
        yield RemoteSubject(client, URL)


@pytest.mark.parametrize("learn", [True, False])
def test_every_question_has_a_fork_of_its_own_that_does_not_learn(
    wire: Wire, subject: RemoteSubject, learn: bool
) -> None:
    with subject.session(learn=learn) as session:
        session.read([9, 8])
        replies = session.ask([QUESTION] * 9)
        assert wire.live == {"s1"}
    assert not wire.live
    assert [reply.nats for reply in replies] == [(-11.0, -7.0)] * 9
    assert {reply.text for reply in replies} == {" said"}
    turns = wire.of("POST /v1/completions")
    told = [(session, body) for session, body in turns if session == "s1"]
    assert told == [("s1", {"prompt": [9, 8], "max_tokens": 0, "learn": "on" if learn else "off"})]
    asked = [(session, body) for session, body in turns if session != "s1"]
    assert len({session for session, _ in asked}) == len(asked) == 9 * 3
    assert all(body["learn"] == "off" for _, body in asked)
    assert all(fork == "/v1/sessions/s1/fork" for fork, _ in wire.of("POST /v1/sessions/s1/fork"))


def test_only_what_is_wanted_is_asked(wire: Wire, subject: RemoteSubject) -> None:
    with subject.wide(99) as session:
        replies = session.ask([Question((1,), limit=3), Question((1,), ((2, 3),))])
    assert [(reply.nats, reply.text) for reply in replies] == [((), " said"), ((-5.0,), "")]
    assert len(wire.of("POST /v1/completions")) == 2
    greedy = wire.of("POST /v1/completions")[0][1]
    assert (greedy["max_tokens"], greedy["temperature"], greedy["stop"]) == (3, 0.0, ["\n"])


def test_long_texts_are_read_in_parts(
    wire: Wire, subject: RemoteSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_remote, "READ_TOKENS", 4)
    with subject.session(learn=True) as session:
        session.read(range(1, 11))
    parts = [body["prompt"] for _, body in wire.of("POST /v1/completions")]
    assert parts == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_text_is_encoded_without_what_comes_before_every_text() -> None:
    with Wire(start=[77]).client() as client:
        subject = RemoteSubject(client, URL)
        assert subject.start() == [77]
        assert subject.encode(["ab", "", "c"]) == [[97, 98], [], [99]]
        assert (subject.name, subject.rule, subject.widens) == ("tiny", "served", False)


@pytest.mark.parametrize("broken", range(8))
def test_a_server_that_goes_away_is_one_error_whenever_it_does(broken: int) -> None:
    def measure() -> None:
        with Wire(broken=broken).client() as client:
            subject = RemoteSubject(client, URL)
            with subject.session(learn=True) as session:
                session.read([1, 2])
                session.ask([QUESTION])

    with pytest.raises(EvaluationError, match=rf"^{URL}: .*gone$"):
        measure()


def test_a_page_instead_of_an_answer_is_told_in_one_line() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(500, text="<html>\n<body>\nno\n"))
    with Client(URL, transport=page, max_retries=0) as client, pytest.raises(EvaluationError) as caught:
        RemoteSubject(client, URL)
    assert "status 500: <html> <body> no" in str(caught.value)


def test_likelihoods_that_are_missing_are_named(
    wire: Wire, subject: RemoteSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        subject.session(learn=True) as session,
        pytest.raises(EvaluationError, match=r"completions: expected log-probabilities of 2 .* found 1"),
    ):
        # Nothing stands before the first token, so that nothing predicts it.
        session.ask([Question((), ((5, 6),))])


def test_what_was_found_before_is_kept_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second session's questions meet no server; started again, what is known is not asked again."""
    wires = [Wire(broken=45), Wire()]
    clients = iter(wire.client() for wire in wires)
    monkeypatch.setattr(evaluate_remote, "Client", lambda _url, *, api_key: next(clients))
    out = tmp_path / "out"
    short = ["--lengths", "400", "--depths", "50"]
    command = ["eval", "needle", "noise", *short, "--out", str(out), "--url", URL]
    assert main(command) == BAD_SETTING
    said = capsys.readouterr().err
    assert f"hope eval: {URL}: " in said
    assert "what was found so far is in" in said
    found = (out / "needle.jsonl").read_bytes()
    kept = len(found.splitlines()) - 1
    assert 0 < kept < 4
    assert main(command) == 0
    assert (out / "needle.jsonl").read_bytes().startswith(found)
    records = json.loads((out / "needle.json").read_text())["records"]
    assert len(records) == 4
    assert len(wires[1].of("POST /v1/sessions")) == 4 - kept
