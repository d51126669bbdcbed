"""Requests: what is accepted, what is refused and why. Responses: OpenAI's exact shape."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hope_client import wire

_MESSAGES = [{"role": "user", "content": "hi"}]


def _chat(**fields: Any) -> wire.ChatCompletionRequest:
    return wire.ChatCompletionRequest.model_validate({"messages": _MESSAGES, **fields})


def _completion(**fields: Any) -> wire.CompletionRequest:
    return wire.CompletionRequest.model_validate({"prompt": "hi", **fields})


def _refusal(fields: dict[str, Any]) -> tuple[str, str]:
    """(dotted place, message) of the first error."""
    with pytest.raises(ValidationError) as caught:
        _chat(**fields)
    first = caught.value.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]


@pytest.mark.parametrize(
    "prompt", [["a", 1], [[1], "a"], [1, "a"], [True], [-1], [2**31], 3, None, {}, [[["a"]]], "\ud800"]
)
def test_no_other_prompt_is_accepted(prompt: object) -> None:
    with pytest.raises(ValidationError):
        _completion(prompt=prompt)


# What these clients really put into a request, beside what the tests below cover one by one.
_SENT_BY_CLIENTS: dict[str, dict[str, Any]] = {
    "guidellm": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 8,
        "max_completion_tokens": 8,
        "stop": None,
        "ignore_eos": True,
    },
    "openai-python": {
        "model": "hope-tiny",
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "hello",
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": None,
            },
            {"role": "tool", "content": "4", "tool_call_id": "call_1"},
        ],
        "n": 1,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": None,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "parallel_tool_calls": True,
        "user": "someone",
        "store": False,
    },
    "langchain": {"messages": _MESSAGES, "stream": True, "n": 1, "temperature": 0.7, "stop": ["\n\n"]},
    "aiperf": {"messages": _MESSAGES, "stream": True, "max_completion_tokens": 5},
    "open-webui": {
        "model": "hope-tiny",
        "messages": _MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}


@pytest.mark.parametrize("client", _SENT_BY_CLIENTS)
def test_what_clients_send_is_accepted(client: str) -> None:
    sent = _SENT_BY_CLIENTS[client]
    request = wire.ChatCompletionRequest.model_validate(sent)
    assert [message.role for message in request.messages] == [message["role"] for message in sent["messages"]]


def test_vllm_bench_completion_is_accepted() -> None:
    request = _completion(
        repetition_penalty=1.0, ignore_eos=True, logprobs=None, top_k=-1, seed=None, temperature=0, echo=False
    )
    assert request.top_k == 0
    assert request.temperature == 0.0


@pytest.mark.parametrize(
    ("fields", "place", "message"),
    [
        ({"min_p": 0.5}, "min_p", "only null or 0 is supported, got 0.5"),
        ({"min_p": False}, "min_p", "only null or 0 is supported, got false"),
        ({"use_beam_search": True}, "use_beam_search", "only null or false is supported, got true"),
        ({"top_logprobs": 2}, "", "top_logprobs needs logprobs"),
        ({"tool_choice": "required"}, "", "tool_choice required needs tools"),
        ({"functions": [1]}, "functions", "only null or [] is supported, got [1]"),
        ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, "messages.0.name", "only null"),
    ],
)
def test_an_option_that_we_do_not_have_is_refused_with_its_reason(
    fields: dict[str, Any], place: str, message: str
) -> None:
    where, why = _refusal(fields)
    assert where == place
    assert message in why


@pytest.mark.parametrize("field", ["nonsense", "learning", "__class__", "stop_strings"])
def test_an_unknown_field_is_refused_even_when_null(field: str) -> None:
    assert _refusal({field: None}) == (field, "Extra inputs are not permitted")


_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_BAD_VALUES: dict[str, list[object]] = {
    "temperature": [-0.1, 2.1, float("nan"), float("inf"), "1", True, 10**400],
    "top_p": [0, 1.1, float("nan"), "1", False],
    "top_k": [-2, 2**31, 1.0, "1", True],
    "max_tokens": [0, -1, 1_000_001, 1.0, "1", True, 10**400],
    "max_completion_tokens": [0, 1_000_001, "1"],
    "seed": [2**63, -(2**63) - 1, 0.5, "1", True],
    "stop": ["", [""], ["a"] * 17, "x" * 257, [1], 1],
    "stream": [1, "true"],
    "ignore_eos": [1, "true"],
    "n": [0, 257, 1.5, "1", True],
    "min_tokens": [-1, 1.5, True],
    "logprobs": [1, "true"],
    "top_logprobs": [-1, 21, True],
    "logit_bias": [{"x": 1}, {"-1": 1}, {"01": 1}, {"5": 101}, {"5": "1"}, {"5": float("nan")}, [5]],
    "presence_penalty": [-2.1, 2.1, float("nan"), "1"],
    "frequency_penalty": [-2.1, 2.1, True],
    "repetition_penalty": [0, -1, 10.5],
    "response_format": [
        "json",
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": []}},
    ],
    "session_id": ["", "a b", "x" * 65, "{tag}", "a\n", 5],
    "model": ["", "x" * 513, 5],
    "user": ["x" * 513, 5],
    "messages": [[], {}, "hi", [5], [{"role": "user"}]],
}
_OUT_OF_BOUNDS: list[dict[str, Any]] = [
    *({name: value} for name, values in _BAD_VALUES.items() for value in values),
    {"messages": [{"role": "assistant"}]},
    {"messages": [{"role": "user", "tool_calls": [_CALL]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{**_CALL, "function": {"name": "f"}}]}]},
    {"tools": [1]},
    {"tools": [{"type": "web_search"}]},
    {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    {"tools": [_TOOL, _TOOL]},
    {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    {"tools": [_TOOL], "tool_choice": "any"},
    {"tools": [_TOOL], "response_format": {"type": "json_object"}},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "more": 1}]}]},
    {"messages": [{"role": "user", "content": "\ud800"}]},
    {"messages": _MESSAGES * (wire.MAX_MESSAGES + 1)},
    {"stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {"include_obfuscation": True}},
    {"max_tokens": 5, "max_completion_tokens": 6},
    {"min_tokens": 1, "response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("fields", _OUT_OF_BOUNDS, ids=lambda fields: repr(fields)[:60])
def test_values_out_of_bounds_and_of_the_wrong_type_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _chat(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2},
        {"temperature": 0},
        {"top_p": 1},
        {"top_k": 2**31 - 1},
        {"max_tokens": 1_000_000},
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
        {"stop": ["x" * 256] * 16},
        {"n": 256},
        {"tool_choice": "none", "parallel_tool_calls": False},
        {"logprobs": True, "top_logprobs": 20},
        {"logit_bias": {"0": -100, "5": 100.0}},
        {"presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 10},
        {"stop": []},
        {"session_id": "s" * 64},
        {"max_tokens": 5, "max_completion_tokens": 5},
    ],
)
def test_the_bounds_themselves_are_accepted(fields: dict[str, Any]) -> None:
    request = _chat(**fields)
    assert {name: getattr(request, name) for name in fields} == fields


def test_null_is_not_given() -> None:
    request = _chat(temperature=None, top_p=None, top_k=None, stop=None, stream=None, max_tokens=None)
    assert request == _chat()
    assert (request.temperature, request.top_p, request.top_k) == (1.0, 1.0, 0)


def test_views_of_a_request() -> None:
    assert _chat(stop="a").stop_strings == ("a",)
    assert _chat(stop=["a", "b"]).stop_strings == ("a", "b")
    assert _chat().stop_strings == ()
    assert _chat(max_completion_tokens=7).token_limit == 7
    assert _chat(max_tokens=7).token_limit == 7
    assert _chat().token_limit is None
    assert _chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not _chat(stream=True).include_usage
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert _chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "ab"


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_REQUESTS = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["system", "user", "assistant", "tool"]),
                    "content": _TEXT
                    | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT}), max_size=3),
                }
            ),
            min_size=1,
            max_size=4,
        )
    },
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1, exclude_min=True),
        "top_k": st.integers(0, 100),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "max_tokens": st.integers(1, 10**6),
        "stop": st.lists(_TEXT.filter(bool), max_size=4) | _TEXT.filter(bool),
        "session_id": st.text("abcXYZ019_-", min_size=1, max_size=64),
        "ignore_eos": st.booleans(),
    },
)


@settings(deadline=None)
@given(_REQUESTS)
def test_a_request_survives_the_wire(fields: dict[str, Any]) -> None:
    request = wire.ChatCompletionRequest.model_validate(fields)
    sent = json.dumps(request.to_wire())
    assert json.loads(sent) == fields
    assert wire.ChatCompletionRequest.model_validate(json.loads(sent)) == request


def test_a_chat_chunk_has_openai_s_shape() -> None:
    def chunk(delta: wire.Delta, **more: Any) -> Any:
        choice = wire.ChatChunkChoice(delta=delta, **more)
        model = wire.ChatCompletionChunk(id="c", created=1, model="m", choices=[choice])
        return json.loads(model.model_dump_json())["choices"][0]

    assert chunk(wire.Delta(role="assistant", content="")) == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert chunk(wire.Delta(content="a"))["delta"] == {"content": "a"}
    assert chunk(wire.Delta(), finish_reason="stop")["delta"] == {}


def test_usage_is_absent_until_it_is_given() -> None:
    usage = wire.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    chunk = wire.ChatCompletionChunk(id="c", created=1, model="m", choices=[])
    assert json.loads(chunk.model_dump_json()) == {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "system_fingerprint": None,
        "choices": [],
    }
    counted = json.loads(chunk.model_copy(update={"usage": usage}).model_dump_json())
    assert counted["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_an_error_body_has_openai_s_shape_and_seqs_only_when_learned() -> None:
    detail = wire.ErrorDetail(message="m", type="t", code="c")
    assert wire.ErrorBody(error=detail).model_dump() == {
        "error": {"message": "m", "type": "t", "param": None, "code": "c"}
    }
    learned = detail.model_copy(update={"first_seq": 3, "last_seq": 9}).model_dump()
    assert (learned["first_seq"], learned["last_seq"]) == (3, 9)


def test_a_frozen_level_has_a_null_period() -> None:
    level = wire.LevelStatus(
        name="slow", period=None, tokens=9, writes=0, frequency=0.0, drift_ratio=0.0, bytes=0
    )
    assert json.loads(wire.Levels(levels=[level]).model_dump_json())["levels"][0]["period"] is None


def test_a_response_of_a_newer_server_can_be_read() -> None:
    assert wire.Health.model_validate({"status": "ok", "since": 5}) == wire.Health()


@pytest.mark.parametrize("model", [wire.ChatCompletion, wire.ChatCompletionChunk, wire.ErrorBody])
def test_the_documented_schema_of_responses_lists_their_fields(model: type[wire.Response]) -> None:
    assert set(model.model_json_schema(mode="serialization")["properties"]) == set(model.model_fields)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2]], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([], [[]]),
    ],
)
def test_a_prompt_is_one_or_a_list_of_them(prompt: Any, prompts: Any) -> None:
    assert _completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a", [1]]},
        {"prompt": [1, "a"]},
        {"prompt": ["a"] * 257},
        {"prompt": ["a"] * 3, "n": 86},
        {"best_of": 2},
        {"suffix": "x"},
        {"logprobs": 21},
        {"logprobs": True},
        {"max_tokens": -1},
    ],
)
def test_completions_that_cannot_be_made_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _completion(**fields)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "null"}}},
    ],
)
def test_a_form_is_sent_as_it_came(form: dict[str, Any]) -> None:
    assert _chat(response_format=form).to_wire()["response_format"] == form


def test_a_chat_with_tools_is_accepted() -> None:
    request = _chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "4"},
        ],
        tools=[{"type": "function", "function": {"name": "f", "strict": True, "description": "d"}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=True,
    )
    assert [message.text for message in request.messages] == ["Be brief.", "", "4"]
    assert request.messages[1].tool_calls is not None
