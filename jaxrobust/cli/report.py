"""`jaxrobust report`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from jaxrobust.cli.common import require_runs
from jaxrobust.cli.loading import RunLoading
from jaxrobust.report import (
    ReportConfig,
    write_report,
)
from jaxrobust.training import (
    Interrupted,
)

__all__ = ["Report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One self-contained HTML page that compares runs, with the numbers as JSON.

    A report that was interrupted, or killed, goes on when the same command is given
    again, and ends with the same bytes.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    output: Path = Path("report")
    """Directory of the report: new, empty, or one to go on with."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    config: Annotated[ReportConfig, tyro.conf.arg(name="")] = ReportConfig()

    def run(self) -> int:
        """Write the report."""
        require_runs(self.runs)
        try:
            path = write_report(
                [self.loading.load(each) for each in dict.fromkeys(self.runs)],
                self.output,
                self.config,
                dataset=self.dataset,
                trust_code=self.loading.trust_code,
                data_dir=self.data_dir,
                say=partial(print, flush=True),
            )
        except KeyboardInterrupt as error:
            raise Interrupted(
                "interrupted; the same command goes on from what is kept in "
                f"{self.output}"
            ) from error
        print(f"written: {path}")
        return 0
