"""What the values of a definition may be, so that no script is broken by one."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust.arguments import require

__all__ = [
    "REMEDY",
    "refuse_control_characters",
    "require_fields",
    "require_match",
    "require_options",
    "require_words",
]

REMEDY = "correct the definition"


def require_match(
    field: str, value: str, pattern: str, rule: str, remedy: str = "rename it"
) -> None:
    """Refuse a text that is not wholly of a pattern.

    Raises:
        ValueError: with the rule.
    """
    is_match = re.fullmatch(pattern, value, re.ASCII) is not None
    require(is_match, field, rule, value, remedy)


def require_words(field: str, value: object) -> None:
    """Refuse what is no tuple of texts; a single text is no list of its letters.

    Raises:
        ValueError: with the value.
    """
    is_right = isinstance(value, tuple) and all(isinstance(w, str) for w in value)
    remedy = 'write ("one", "two"), with a comma behind a single word: ("one",)'
    require(is_right, field, "a tuple of words", value, remedy)


def require_options(
    field: str, options: tuple[str, ...], known: Mapping[str, str]
) -> None:
    """Refuse options that are none, or that the definition has a field for.

    Args:
        field: in which they stand.
        options: as `--name` or `--name=value`.
        known: names of options, without dashes, and the fields that say the same.

    Raises:
        ValueError: for the first that is not right.
    """
    require_words(field, options)
    for option in options:
        name = option.partition("=")[0]
        pattern, rule = r"--[a-z][a-z0-9-]*", "options such as --name or --name=value"
        is_option = re.fullmatch(pattern, name, re.ASCII) is not None
        require(is_option, field, rule, option, "write the long name of the option")
        _refuse_known(field, option, name.removeprefix("--"), known)


def require_fields(
    field: str, value: Mapping[str, Any], known: Mapping[str, str]
) -> None:
    """Refuse fields of a manifest that JSON cannot say, or that have a field here.

    Args:
        field: in which they stand.
        value: by the names that Kubernetes has for them.
        known: names of fields, and the fields of the definition that say the same.

    Raises:
        ValueError: for the first that is not right.
    """
    try:
        json.dumps(value)
        is_right = isinstance(value, Mapping)
    except (TypeError, ValueError):
        is_right = False
    rule = "a mapping of texts, numbers, lists and mappings"
    require(is_right, field, rule, value, REMEDY)
    for name in value:
        _refuse_known(field, name, name, known)


def _refuse_known(field: str, value: str, name: str, known: Mapping[str, str]) -> None:
    own = known.get(name)
    rule = "what the definition has no field for"
    require(own is None, field, rule, value, f"{name} is said by {own}")


def refuse_control_characters(field: str, value: object) -> None:
    """Refuse a text that would break a line of a script, however it is quoted.

    Args:
        field: in which it stands; "" for a whole definition.
        value: a text, or what holds texts; anything else is let through.

    Raises:
        ValueError: with the field and the text.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            refuse_control_characters(f"{field}.{name}".lstrip("."), inner)
            refuse_control_characters(field, name)
    elif isinstance(value, str):
        rule = "one line of printable characters"
        require(value.isprintable(), field, rule, value, "take out the others")
    elif isinstance(value, Sequence):
        for inner in value:
            refuse_control_characters(field, inner)
