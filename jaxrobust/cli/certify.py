"""`jaxrobust certify`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import tyro

from jaxrobust import hosts
from jaxrobust.cli.common import require_runs
from jaxrobust.cli.judging import ImageChoice, Judging, ProgressLine
from jaxrobust.cli.settings_file import beside, read_settings
from jaxrobust.cli.streams import require_printed
from jaxrobust.evaluation import Certification, CertificationProgress, certify_models
from jaxrobust.evaluation.certificates.methods import (
    DEFAULT,
    Method,
    description,
    named_methods,
)
from jaxrobust.keeping import plain, versions, write_whole
from jaxrobust.precision import JUDGED
from jaxrobust.report import certified_table, markdown_table, method_table, percent
from jaxrobust.threat import threat_of
from jaxrobust.training import applied
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json

__all__ = ["CertificationLine", "CertificationSettings", "Certify"]

FLAGS = {"epsilons": "epsilon", "methods": "method"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertificationSettings(ImageChoice):
    """What decides what is proven; what a file of `--config` has."""

    epsilons: Annotated[tuple[float, ...], tyro.conf.arg(name="epsilon")] = (0.3,)
    """Radii, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    norm: str | None = None
    """Norm of the ball: linf, l2 or l1; by default that of the training."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(name="method")] = DEFAULT
    """What proves, the cheapest first, each on what those before it left: interval,
    crown-ibp (linear bounds between intervals), crown, alpha-crown (with slopes
    optimized; hundreds of times the price of the first); or one of your own,
    path.py:NAME, a function (logits_fn, threat, images, labels) -> margins."""
    batch_size: int | None = None
    """Images bounded at once; by default what fits and takes some seconds."""

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Self:
        """The settings in a table of a file.

        Raises:
            ValueError: for a setting that there is not, with the nearest that there is,
                or a value of another kind.
        """
        return config_from_json(cls, record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certify(Judging):
    """Clean and certified accuracy of runs, with 95 % intervals, by bounds that prove.

    An image is certified if the model is right on it, and bounds prove that it is on
    every image of the ball. What was interrupted, or killed, goes on when the same
    command is given again, if it has a place for its state: --output or --journal.
    """

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Settings from this file: what --output wrote, or JSON or TOML of the same form.
    Flags that are given beside it win."""
    given: Annotated[frozenset[str], tyro.conf.Suppress, tyro.conf.Fixed] = frozenset()
    """Fields whose flags were given, which the command line fills in."""
    settings: Annotated[CertificationSettings, tyro.conf.arg(name="")] = (
        CertificationSettings()
    )

    def configured(self) -> "Certify":
        """With the settings of --config, where there is one, and the flags beside it.

        Raises:
            ValueError: for a file that is refused.
        """
        if self.config_file is None:
            return self
        file = read_settings(
            self.config_file,
            CertificationSettings.of_record,
            trust_code=self.networks.trust_code,
            frame="settings",
        )
        settings = beside(file, self.settings, self.given, **FLAGS)
        return dataclasses.replace(self, config_file=None, settings=settings)

    def run(self) -> int:
        """Certify each run and print a table."""
        require_runs(self.runs)
        return self.configured().certify_all()

    def certify_all(self) -> int:
        """The work, once all settings are here."""
        settings = self.settings
        methods = named_methods(settings.methods)
        norm = self.norm_or_trained(settings.norm)
        for epsilon in settings.epsilons:
            threat_of(norm).require_epsilon(epsilon)
        self.require_new("output")
        found: dict[Path, Certification] = {}
        shown = CertificationLine(is_wanted=not self.quiet)
        try:
            with self.going_on():
                groups = self.groups(settings.checkpoint)
                self.require_places()
                self.warn_of_precisions([run for alike in groups for run in alike])
                for index, alike in enumerate(groups):
                    directories = [run.directory for run in alike]
                    names = [directory.name for directory in directories]
                    results = certify_models(
                        applied(alike[0].network),
                        [run.weights for run in alike],
                        self.load(alike, settings),
                        settings.epsilons,
                        norm=norm,
                        methods=methods,
                        batch_size=settings.batch_size,
                        journal=self.journal_of(str(index)),
                        progress=partial(shown.show, names),
                    )
                    found |= dict(zip(directories, results, strict=True))
        finally:
            shown.clear()
        rows = [
            {"model": directory.name, **dataclasses.asdict(found[directory].row())}
            for directory in self.runs
        ]
        if hosts.is_primary():
            try:
                # First: what is shown can fail, and the numbers are not to be lost.
                self.write(rows, methods, norm)
            finally:
                self.show(rows, norm)
            self.forget_journals()
        return 0

    def write(
        self, rows: list[dict[str, Any]], methods: Mapping[str, Method], norm: str
    ) -> None:
        """The numbers as JSON, if they are asked for."""
        if self.output is None:
            return
        record = {
            "settings": config_to_json(self.settings) | {"norm": norm},
            "judged_at": JUDGED,
            "methods": {name: description(each) for name, each in methods.items()},
            "versions": versions(),
            "rows": rows,
        }
        text = json.dumps(plain(record), indent=2) + "\n"
        write_whole(self.output, text, is_new=True)

    def show(self, rows: Sequence[dict[str, Any]], norm: str) -> None:
        """Print the numbers, which must arrive if they are kept nowhere else."""
        print(f"Certified accuracy in {norm}, pixels in [0, 1]:\n")
        print(markdown_table(certified_table(rows)), end="")
        for row in rows:
            print(f"\n{row['model']}, images by the first method that proves them:\n")
            print(markdown_table(method_table(row)), end="")
        if self.output is None:
            require_printed()


class CertificationLine(ProgressLine):
    """A line on a terminal that says how far a certification is."""

    def show(self, names: Sequence[str], progress: CertificationProgress) -> None:
        """Write over the line."""
        shares = ", ".join(
            f"ε {radius:g}: {percent(share)}"
            for radius, share in zip(
                progress.epsilons, progress.certified_accuracy, strict=True
            )
        )
        self.write(
            f"{names[progress.model]}, {progress.method}: {progress.num_done} bounds; "
            f"certified {shares}"
        )
