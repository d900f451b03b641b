"""`jaxrobust limits theory`: closed forms of the papers, one command each."""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrobust import plots
from jaxrobust.cli.command import Command
from jaxrobust.cli.limits.output import (
    RESULTS,
    draw,
    flags_of,
    require_new,
    working,
    write,
)
from jaxrobust.cli.renaming import with_flags
from jaxrobust.limits import formulas
from jaxrobust.report import markdown_table

__all__ = ["THEORY"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written(Command):
    output: Path = Path("limits")
    """Directory for results.json and figures; it must hold no other results."""

    def table(self) -> formulas.FormulaTable:
        """What the formula gives."""
        raise NotImplementedError

    def run(self) -> int:
        """Print the table and write it."""
        require_new(self.output)
        table = self.table()
        with working(self.output):
            self.write(table)
        print(f"{table.title} ({table.source})\n")
        print(markdown_table(table.cells()), end="")
        for note in table.notes:
            print(f"\n{note}")
        print(f"written: {self.output / RESULTS}")
        return 0

    def write(self, table: formulas.FormulaTable) -> None:
        """Figures and results."""
        figures: tuple[tuple[str, Mapping[str, Sequence[float]], str], ...] = (
            ("theory", table.columns, ""),
            ("logarithms", table.logarithms, "natural logarithm"),
        )
        for name, columns, ylabel in figures:
            if not columns:
                continue
            lines = [
                plots.Curve(label, table.values, column)
                for label, column in columns.items()
            ]
            figure = plots.curves(
                lines, xlabel=table.axis, ylabel=ylabel, title=table.title
            )
            draw(figure, self.output, name)
        write(self.output, {"config": flags_of(self), **table.as_record()})


def _written(formula: type) -> type:
    """The command that writes the table of a formula."""
    flags = with_flags(formula, epsilons="epsilon")
    command = dataclasses.make_dataclass(
        formula.__name__, [], bases=(flags, Written), frozen=True, kw_only=True
    )
    command.__doc__ = formula.__doc__
    return command


_FORMULAS = {
    "gaussians": formulas.Gaussians,
    "bernoulli": formulas.Bernoulli,
    "no-free-lunch": formulas.NoFreeLunch,
    "cube": formulas.Cube,
    "ball": formulas.Ball,
    "facets": formulas.Facets,
    "graph": formulas.Graph,
}

THEORY: Any = functools.reduce(
    operator.or_,
    (
        Annotated[_written(formula), tyro.conf.subcommand(name)]
        for name, formula in _FORMULAS.items()
    ),
)
"""The union of all of them."""
