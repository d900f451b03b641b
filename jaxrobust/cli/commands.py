"""The commands by name. Nothing of the library is imported until one is chosen."""

import ast
import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jaxrobust

__all__ = ["COMMANDS", "Choice", "Entry", "Group", "choice"]

DESCRIPTION = "Adversarial training and evaluation at large perturbations."


class Entry(NamedTuple):
    """A command.

    Attributes:
        place: its class, or a union of classes that tyro takes for subcommands, as
            MODULE:NAME below `jaxrobust.cli`.
        summary: of a union; that of a class is the first sentence of its docstring.
    """

    place: str
    summary: str | None = None

    def load(self) -> Any:
        """The class, with all that it needs imported."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"jaxrobust.cli.{module}"), name)

    def describe(self) -> str:
        """The summary, read without running anything."""
        if self.summary is not None:
            return self.summary
        module, _, name = self.place.partition(":")
        path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return (ast.get_docstring(node) or "").partition("\n\n")[0]
        return ""


class Group(NamedTuple):
    """Commands of commands.

    Attributes:
        summary: what they are for.
        commands: by name.
    """

    summary: str
    commands: Mapping[str, "Entry | Group"]

    def describe(self) -> str:
        """The summary."""
        return self.summary


COMMANDS = Group(
    DESCRIPTION,
    {
        "train": Entry("train:Train"),
        "sweep": Entry("sweep:Sweep"),
        "extend": Entry("extend:Extend"),
        "evaluate": Entry("evaluate:Evaluate"),
        "certify": Entry("certify:Certify"),
        "report": Entry("report:Report"),
        "export": Entry("export:Export"),
        "launch": Entry("launch:Launch"),
        "data": Group(
            "Data sets: list, prepare or describe.",
            {
                "list": Entry("datasets:DataList"),
                "prepare": Entry("datasets:DataPrepare"),
                "describe": Entry("datasets:DataDescribe"),
            },
        ),
        "limits": Group(
            "What no classifier can do: in theory, and on data.",
            {
                "theory": Entry(
                    "limits.theory:THEORY", "One of the closed forms of the papers."
                ),
                "concentration": Entry("limits.concentration:Concentration"),
                "optimum": Entry("limits.optimum:Optimum"),
                "compare": Entry("limits.compare:Compare"),
            },
        ),
    },
)
"""All of them; another one is a file with a class, and a line here."""


class Choice(NamedTuple):
    """A command that was chosen.

    Attributes:
        entry: the command.
        program: words before its flags, such as "jaxrobust data list".
        flags: the words that follow.
    """

    entry: Entry
    program: str
    flags: list[str]


def choice(arguments: Sequence[str]) -> Choice:
    """The command that the first words name.

    Raises:
        SystemExit: with 0 after the help or the version; with 2, after a line that
            says why, if no command is named.
    """
    program, rest, node = "jaxrobust", list(arguments), COMMANDS
    while isinstance(node, Group):
        word = rest.pop(0) if rest else ""
        if word in ("-h", "--help"):
            print(_help(program, node))
            raise SystemExit(0)
        if word == "--version" and node is COMMANDS:
            print(f"jaxrobust {jaxrobust.__version__}")
            raise SystemExit(0)
        if word not in node.commands:
            print(_refusal(program, word, node.commands), file=sys.stderr)
            raise SystemExit(2)
        program, node = f"{program} {word}", node.commands[word]
    return Choice(node, program, rest)


def _refusal(program: str, word: str, commands: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, commands, 1)
    remedy = f"did you mean {near[0]!r}?" if near else f"see {program} --help."
    return (
        f"jaxrobust: the word after `{program}` must be one of "
        f"{', '.join(commands)}, got {word!r}; {remedy}"
    )


def _help(program: str, group: Group) -> str:
    options = "[--help] [--version]" if group is COMMANDS else "[--help]"
    lines = [f"usage: {program} {options} COMMAND ...", "", group.summary, ""]
    width = max(map(len, group.commands))
    columns = max(40, min(88, shutil.get_terminal_size().columns))
    for name, node in group.commands.items():
        start, blank = f"  {name:<{width}}  ", " " * (width + 4)
        text = node.describe()
        lines += textwrap.wrap(
            text, columns, initial_indent=start, subsequent_indent=blank
        )
    return "\n".join([*lines, "", f"{program} COMMAND --help tells of its flags."])
