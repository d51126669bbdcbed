"""Whether a chat template is one: compiled, never run."""

from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hope_model.errors import ConversionError


class GenerationTag(Extension):
    """``{% generation %}``, which marks the assistant's words for training; here its content as it is."""

    tags = {"generation"}  # noqa: RUF012 - as its base has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pass_context
def _unchanged(context: Any, value: Any) -> Any:
    return value


def require_chat_template(text: str) -> None:
    """Raises ConversionError unless ``text`` compiles."""
    # Without an optimizer, and with a finalizer that wants a context, compiling evaluates no expression:
    # "{{ 'a' * 10**12 }}" costs nothing.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", GenerationTag],
        optimized=False,
        finalize=_unchanged,
    )
    try:
        text.encode()
        environment.compile(text)
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise ConversionError(f"chat template: expected valid Unicode, found {error}") from error
    except TemplateSyntaxError as error:
        raise ConversionError(f"chat template: line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError, ValueError, SyntaxError) as error:
        raise ConversionError(f"chat template: does not compile: {error}") from error
