"""The command of a job: words, with placeholders for what the definition knows.

Experiments are one form of it (`experiment`); any other program is another.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence

from jaxrobust.arguments import require, require_count
from jaxrobust.launching.values import REMEDY, require_match, require_words

__all__ = ["PLACEHOLDERS", "check_command", "experiment", "filled", "option", "subject"]

PLACEHOLDERS = ("workdir", "hosts", "mesh.member", "mesh.data")
"""What a word may name in braces, such as `{workdir}`."""

_PACKAGE = "experiments"
# Doubled braces stand for single ones; braces around anything else are left alone.
_PLACEHOLDER = re.compile(r"\{\{([a-z_.]+)\}\}|\{([a-z_.]+)\}")


def experiment(
    item: str,
    *,
    preset: str,
    seed: int = 0,
    batch_size: int | None = None,
    python: str = "python",
) -> tuple[str, ...]:
    """The command of an experiment of this repository.

    Args:
        item: PAPER/ITEM, such as large_perturbations/sweep.
        preset: name of one of its configurations.
        seed: at least 0.
        batch_size: images per step, of all hosts together; None for the preset's.
        python: interpreter with jaxrobust, as seen on the hosts.

    Returns:
        Words for `Definition.command`.

    Raises:
        ValueError: for values out of range.
    """
    require_match("experiment", item, r"[a-z]\w*/[a-z]\w*", "PAPER/ITEM")
    require_count("seed", seed, REMEDY, least=0)
    words = [python, "-m", _PACKAGE, item]
    words += ["--preset", preset, "--seed", str(seed), "--workdir", "{workdir}"]
    words += ["--mesh.member", "{mesh.member}", "--mesh.data", "{mesh.data}"]
    if batch_size is not None:
        require_count("batch_size", batch_size, REMEDY)
        words += ["--batch-size", str(batch_size)]
    return tuple(words)


def subject(words: Sequence[str]) -> str | None:
    """PAPER/ITEM of the experiment that a command runs; None for anything else."""
    for place, flag in enumerate(words[:-2]):
        if flag == "-m" and words[place + 1] == _PACKAGE:
            return words[place + 2]
    return None


def option(words: Sequence[str], name: str) -> str | None:
    """The word after an option of a command; None if it is not among the words."""
    places = dict(itertools.pairwise(words))
    return places.get(name)


def check_command(words: tuple[str, ...]) -> set[str]:
    """Refuse what is no command; return the placeholders that it names.

    Raises:
        ValueError: for no words at all, or an unknown placeholder.
    """
    require_words("command", words)
    remedy = 'write ("jaxrobust", "train", "--run-dir", "{workdir}")'
    require(bool(words and words[0]), "command", "a program to run", words, remedy)
    names = {match[2] for word in words for match in _PLACEHOLDER.finditer(word)}
    names.discard(None)
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for name in sorted(names):
        close = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
        hint = f"did you mean {{{close[0]}}}? " if close else ""
        require(
            name in PLACEHOLDERS,
            "command",
            f"of words whose placeholders are among {known}",
            f"{{{name}}}",
            f"{hint}{{{{{name}}}}} stands for itself",
        )
    return names


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words with values in the place of their placeholders."""

    def value_of(match: re.Match[str]) -> str:
        return f"{{{match[1]}}}" if match[1] else values[match[2]]

    return [_PLACEHOLDER.sub(value_of, word) for word in words]
