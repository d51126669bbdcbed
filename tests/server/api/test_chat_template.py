from __future__ import annotations

import time
from datetime import datetime

import pytest
from tests.server.api.templates import LLAMA3, MISTRAL, QWEN, SMOLLM2

from hope_server.chat import ChatTemplate, learn
from hope_server.chat.sandbox import MAX_SOURCE_CHARS
from hope_server.errors import ChatTemplateError, StartupError

NOON = datetime(2031, 5, 4, 12)
DEFAULT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


def learned(source: str) -> ChatTemplate:
    return learn(source, bos_token="<s>", eos_token="</s>")


def simple(body: str) -> str:
    """A template that writes `body` for each message."""
    return "{% for m in messages %}" + body + "{% endfor %}{{ '<answer>' }}"


def test_the_real_template_of_smollm2() -> None:
    template = learned(SMOLLM2)
    assert template.refused == {}
    assert len(template.gaps) == 24
    for (before, after), gap in template.gaps.items():
        head = "<|im_end|>\n" if before != "start" else "" if after == "system" else DEFAULT
        assert gap == f"{head}<|im_start|>{after.replace('answer', 'assistant')}\n"
    assert all(form("  a\n") == "  a\n" for form in template.forms.values())


def test_a_template_that_trims() -> None:
    template = learned(LLAMA3)
    assert template.gaps["start", "user"] == "<s><|start_header_id|>user<|end_header_id|>\n\n"
    assert template.gaps["user", "answer"] == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert all(form("  a\n b\n") == "a\n b" for form in template.forms.values())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("m.content", "\n x\n "),
        ("m.content | trim", "x"),
        ("m.content.lstrip()", "x\n "),
        ("m.content.rstrip()", "\n x"),
        ("m.content.lstrip('\\n')", " x\n "),
        ("m.content | tojson", '"\\n x\\n "'),
    ],
)
def test_what_becomes_of_a_text(expression: str, expected: str) -> None:
    template = learned(simple("<{{ m.role }}>{{ " + expression + " }}"))
    assert template.forms["user"]("\n x\n ") == expected


def test_answers_of_tools_that_share_a_message() -> None:
    template = learned(QWEN)
    assert template.gaps["assistant", "tool"] == "<|im_end|>\n<|im_start|>user\n<tool_response>\n"
    assert template.gaps["tool", "tool"] == "\n</tool_response>\n<tool_response>\n"
    closing = "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert template.gaps["tool", "answer"] == template.gaps["tool", "assistant"] == closing


def test_a_template_may_do_without_some_conversations() -> None:
    template = learned(MISTRAL)
    assert template.gaps == {
        ("start", "user"): "<s>[INST] ",
        ("start", "system"): "<s>[INST] ",
        ("system", "user"): "\n\n",
        ("user", "answer"): " [/INST]",
        ("user", "assistant"): " [/INST] ",
        ("assistant", "user"): "</s>[INST] ",
        ("assistant", "answer"): "</s>",
    }
    assert len({*template.gaps, *template.refused}) == len(template.gaps) + len(template.refused) == 24
    alternate = "roles must alternate user/assistant/user/assistant"
    for step in [("user", "user"), ("assistant", "tool"), ("start", "assistant"), ("tool", "tool")]:
        assert template.refused[step] == alternate


def test_a_system_prompt_that_wanders_is_refused_and_the_chat_is_not() -> None:
    template = learned(
        "{% set system = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | join %}"
        "{% for m in messages if m.role != 'system' %}{% if loop.last %}{{ system }}{% endif %}"
        "{{ '<' + m.role + '>' + m.content }}{% endfor %}{{ '<answer>' }}"
    )
    assert template.gaps["start", "user"] == "<user>"
    assert "comes before an earlier one" in template.refused["start", "system"]
    assert not any("system" in step for step in template.gaps)
    assert template.forms.keys() == {"user", "assistant", "tool"}


def test_tools_that_are_introduced_only_once_are_refused() -> None:
    template = learned(
        "{% set once = namespace(tools='<tools>') %}"
        + simple(
            "<{{ m.role }}>{% if m.role == 'tool' %}{{ once.tools }}{% set once.tools = '' %}{% endif %}"
            "{{ m.content }}"
        )
    )
    assert "does not extend" in template.refused["assistant", "tool"]


def test_a_last_answer_that_is_treated_differently_is_refused() -> None:
    last = "{% if loop.last and m.role == 'assistant' %}<think>{% endif %}"
    template = learned(simple("<{{ m.role }}>" + last + "{{ m.content }}"))
    assert template.gaps["user", "assistant"] == "<assistant>"
    assert "does not extend" in template.refused["assistant", "answer"]


def test_marks_for_training_change_nothing() -> None:
    marked = learned(simple("<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}"))
    assert marked.gaps == learned(simple("<{{ m.role }}>{{ m.content }}")).gaps


def test_what_transformers_offers_a_template() -> None:
    loop = "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"
    html = "{{ {'a': '<&>'} | tojson }}"
    blocks = "  {% if true %}\n{% endif %}\n"
    rest = "{% if tools is none and documents is none and add_generation_prompt %}yes{% endif %}"
    template = learned(
        blocks + loop + html + rest + "{{ eos_token }}" + simple("<{{ m.role }}>{{ m.content }}")
    )
    assert template.gaps["start", "user"] == '1{"a": "<&>"}yes</s><user>'


def test_a_tokenizer_without_bos() -> None:
    source = "{{ 'none' if bos_token is not defined }}" + simple("<{{ m.role }}>{{ m.content }}")
    assert learn(source, bos_token=None, eos_token=None).gaps["start", "user"] == "none<user>"


def test_the_date_is_that_of_the_turn() -> None:
    dated = "{% if loop.first %}{{ 'Today: ' + strftime_now('%d %b %Y') + '. ' }}{% endif %}"
    template = learned(simple(dated + "<{{ m.role }}>{{ m.content }}"))
    assert template.gap(("start", "user"), NOON) == "Today: 04 May 2031. <user>"
    assert template.gap(("start", "user"), NOON.replace(year=2032)) == "Today: 04 May 2032. <user>"
    assert template.gap(("assistant", "user"), NOON) == "<user>"
    assert template.gap(("assistant", "answer"), NOON) == "<answer>"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "does not pass the text of the user on"),
        ("{{ raise_exception('no\nway') }}", "no way"),
        (simple("<{{ m.role }}>{{ m.content | upper }}"), "does not pass the text"),
        (simple("<{{ m.role }}>{{ m.content | e }}"), "does not pass the text"),
        (simple("<{{ m.role }}>{{ m.content[:50] }}"), "does not pass the text"),
        (simple("<{{ m.role }}>{{ m.content.replace('  ', ' ') }}"), "does not pass the text"),
        (simple("<{{ m.role }}>{{ m.content + m.content }}"), "does not pass the text"),
        (
            simple("<{{ m.role }}>{{ m.content.strip('\\t') }}"),
            "changes the white space around texts",
        ),
        (
            simple("{{ m.content }}").replace("in messages", "in messages | reverse"),
            "comes before an earlier one",
        ),
        (simple("{{ m.content }}").replace("in messages", "in messages[-9:]"), "does not pass the text"),
        (
            simple("<{{ loop.index }}>{{ m.content }}"),
            "does not extend: between user and assistant it writes '<2>'",
        ),
        (
            simple("{{ m.content }}") + "{{ '!' if messages[-1].content.endswith('\t') }}",
            "changes the white space around texts",
        ),
        (simple("{{ strftime_now('%Y')[1:] }}{{ m.content }}"), "takes a text or a date apart"),
        (simple("{{ strftime_now('%999999999d') }}{{ m.content }}"), "expected a date format"),
        (simple("{{ '\\ud800' }}{{ m.content }}"), "surrogates not allowed"),
        ("x" * (MAX_SOURCE_CHARS + 1), f"expected at most {MAX_SOURCE_CHARS} characters"),
    ],
)
def test_a_template_that_cannot_be_served(source: str, reason: str) -> None:
    with pytest.raises(ChatTemplateError) as refusal:
        learned(source)
    assert str(refusal.value).startswith("chat template: ")
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, StartupError)
    assert refusal.value.code == "chat_template_error"


HUGE = "{% set n = messages | length * 1000000000 %}"
DOUBLES = (
    "{% set ns = namespace(s='x' * 1000) %}{% for i in range(30) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}", "line 1: Unexpected end of template"),
        ("{{ 1 +\n\n }", "line 3: unexpected '}'"),
        ("{{ raise_exception('no chats here') }}", "no chats here"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "1 s of processor time",
        ),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "more than 65536 characters"),
        ("{{ 'x' * 1000000000 }}", "more memory"),
        (HUGE + "{{ 'x' * n }}", "more memory"),
        (DOUBLES + "{{ ns.s | length }}", "chat template: "),
        ("{{ 9 ** (9 ** 9) }}", "1 s of processor time"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "recursion"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "'__class__' of 'str' object is unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "'__init__' of 'type' object is unsafe"),
        ("{{ '{0.__class__.__mro__}'.format('') }}", "'__class__' of 'str' object is unsafe"),
        ("{{ (messages | map(attribute='__class__') | list)[0].mro() }}", "unsafe"),
        ("{{ raise_exception.__globals__['__builtins__'] }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "'append' of 'list' object is unsafe"),
    ],
)
def test_a_template_that_means_harm(source: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(ChatTemplateError) as refusal:
        learn(source, bos_token=None, eos_token=None, cpu_s=1)
    assert reason in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert time.monotonic() - started < 30
