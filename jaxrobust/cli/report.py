"""`jaxrobust report`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrobust.arguments import require
from jaxrobust.cli.attacking import AttackChoice
from jaxrobust.cli.command import Command
from jaxrobust.cli.common import require_runs
from jaxrobust.cli.loading import RunLoading
from jaxrobust.cli.renaming import with_flags
from jaxrobust.cli.settings_file import beside, read_settings
from jaxrobust.evaluation.choosing import STANDARD
from jaxrobust.report import ReportConfig, write_report
from jaxrobust.training import Interrupted
from jaxrobust.training.recipe.config_json import config_from_json

__all__ = ["Report"]

FLAGS = {"epsilons": "epsilon"}
CONFIG = with_flags(ReportConfig, attacks=None, **FLAGS)
ENSEMBLE = AttackChoice(attack=(STANDARD,))


def _of_record(record: dict[str, Any]) -> tuple[AttackChoice, ReportConfig]:
    """The attacks and the rest of the settings in a table of a file.

    Raises:
        ValueError: for a setting that there is not, with the nearest that there is, or
            a value of another kind.
    """
    rule = "named by `attack` and `set`"
    remedy = "these were made in Python and have no names"
    attacks = record.pop("attacks", None)
    require(attacks is None, "attacks", rule, attacks, remedy)
    choice = {"attack": list(ENSEMBLE.attack)}
    choice |= {name: record.pop(name) for name in ("attack", "set") if name in record}
    return AttackChoice.of_record(choice), config_from_json(ReportConfig, record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Command):
    """One self-contained HTML page that compares runs, with the numbers as JSON.

    A report that was interrupted, or killed, goes on when the same command is given
    again, and ends with the same bytes.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Settings from this file: the report.json of a report, or JSON or TOML of the same
    form. Flags that are given beside it win."""
    given: Annotated[frozenset[str], tyro.conf.Suppress, tyro.conf.Fixed] = frozenset()
    """Fields whose flags were given, which the command line fills in."""
    attacks: Annotated[AttackChoice, tyro.conf.arg(name="")] = ENSEMBLE
    output: Path = Path("report")
    """Directory of the report: new, empty, or one to go on with."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    config: Annotated[ReportConfig, tyro.conf.arg(name="", constructor=CONFIG)] = (
        CONFIG()
    )

    def settings(self) -> ReportConfig:
        """Those of the flags, or of --config with the flags beside it.

        Raises:
            ValueError: for a file that is refused, or for an attack or a setting that
                there is not.
        """
        choice, config = self.attacks, self.config
        if self.config_file is not None:
            file, settings = read_settings(
                self.config_file,
                _of_record,
                trust_code=self.loading.trust_code,
                frame="settings",
            )
            # Of several values the last one counts.
            changes = file.set + choice.set
            choice = beside(file, choice, self.given)
            choice = dataclasses.replace(choice, set=changes)
            config = beside(settings, config, self.given, **FLAGS)
        return dataclasses.replace(config, attacks=choice.builders())

    def run(self) -> int:
        """Write the report."""
        require_runs(self.runs)
        settings = self.settings()
        try:
            path = write_report(
                [self.loading.load(each) for each in dict.fromkeys(self.runs)],
                self.output,
                settings,
                dataset=self.dataset,
                trust_code=self.loading.trust_code,
                data_dir=self.data_dir,
                say=self.say,
            )
        except KeyboardInterrupt as error:
            raise Interrupted(
                "interrupted; the same command goes on from what is kept in "
                f"{self.output}"
            ) from error
        print(f"written: {path}")
        return 0
