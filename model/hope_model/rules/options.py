"""Settings of one rule alone: the rule declares them, a configuration names those that are changed."""

from collections.abc import Mapping
from dataclasses import dataclass

from hope_model.errors import ConfigError

OptionValue = bool | int | str
MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class Option:
    """A switch, a size from 1, or one of some names, as its default is."""

    default: OptionValue
    says: str
    choices: tuple[str, ...] = ()


def chosen_options(
    rule: str, known: Mapping[str, Option], given: Mapping[str, object]
) -> dict[str, OptionValue]:
    """Every option of ``rule``: as given, else its default.

    Raises:
        ConfigError: an unknown name, or a value of another kind or out of range.
    """
    unknown = sorted(map(str, set(given) - set(known)))
    if unknown:
        raise ConfigError(
            f"rule_options: rule {rule!r} has no option {', '.join(unknown)}; "
            f"known: {', '.join(known) or 'none'}"
        )
    return {
        name: _checked(rule, name, option, given.get(name, option.default)) for name, option in known.items()
    }


def parse_options(text: str) -> dict[str, OptionValue]:
    """``"window=128,momentum=off"`` as values by name.

    Raises:
        ConfigError: a part that is not ``name=value``.
    """
    options: dict[str, OptionValue] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"rule_options: expected name=value, found {part!r}")
        if name in options:
            raise ConfigError(f"rule_options: expected each name once, found {name!r} twice")
        options[name] = _value(value)
    return options


def _value(text: str) -> OptionValue:
    switches = {"on": True, "off": False, "true": True, "false": False}
    if text in switches:
        return switches[text]
    try:
        return int(text)
    except ValueError:
        return text


def _checked(rule: str, name: str, option: Option, value: object) -> OptionValue:
    default = option.default
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        expected = "on or off"
    elif isinstance(default, int):
        if type(value) is int and 1 <= value <= MAX_SIZE:
            return value
        expected = f"a whole number from 1 to {MAX_SIZE}"
    else:
        if isinstance(value, str) and value in option.choices:
            return value
        expected = f"one of {', '.join(option.choices)}"
    raise ConfigError(f"rule_options: {name!r} of rule {rule!r}: expected {expected}, found {value!r}")
