"""`jaxrobust evaluate`."""

import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from jaxrobust import data, hosts
from jaxrobust.arguments import require
from jaxrobust.attacks import AttackBuilder
from jaxrobust.attacks.builders import described
from jaxrobust.cli.attacking import AttackChoice, table_of
from jaxrobust.cli.common import require_runs
from jaxrobust.cli.ending import FAILED
from jaxrobust.cli.judging import ImageChoice, Judging, ProgressLine
from jaxrobust.cli.settings_file import beside, read_settings
from jaxrobust.cli.streams import require_printed
from jaxrobust.evaluation import (
    Certification,
    Evaluation,
    Progress,
    broken_certificates,
    certify_models,
    evaluate_models,
)
from jaxrobust.evaluation.certificates import broken_note, named_methods
from jaxrobust.evaluation.choosing import require_attacks
from jaxrobust.keeping import plain, versions, write_whole
from jaxrobust.precision import (
    JUDGED,
    MatmulPrecision,
    unconfirmed_note,
)
from jaxrobust.report import (
    attack_table,
    interval_table,
    markdown_table,
    method_table,
    percent,
)
from jaxrobust.threat import threat_of
from jaxrobust.training import Run, applied
from jaxrobust.training.recipe.config_json import config_to_json

__all__ = ["Evaluate", "EvaluationLine", "EvaluationSettings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ImageChoice, AttackChoice):
    """What decides the numbers of an evaluation; what a file of `--config` has."""

    epsilons: Annotated[tuple[float, ...], tyro.conf.arg(name="epsilon")] = (0.3,)
    """Radii, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    norm: str | None = None
    """Norm of the ball: linf, l2, l1, l0, or one of your own, path.py:NAME or
    package.module:NAME; by default that of the training."""
    search: Literal["every", "bisect"] = "every"
    """every radius in ascending order; or bisect, which takes about log2 as many
    attacks and trusts that who withstands a radius withstands the smaller ones."""
    matmul_precision: MatmulPrecision = "default"
    """Of matrix products in attacks: default (the fastest: TF32 on a GPU, bfloat16 on a
    TPU), high or highest (float32). The same numbers on a CPU. Images, clean ones and
    those that attacks found, are judged at highest."""
    batch_size: int | None = None
    """Images attacked at once; by default what takes some seconds."""
    seed: int = 0
    """Of everything random in the attacks."""
    certify: tuple[str, ...] = ()
    """Also say what is proven at these radii, by one method or more, each on what those
    before it left: interval, crown-ibp, crown, alpha-crown; or one of your own,
    path.py:NAME. The truth lies between what is certified and what attacks leave;
    certify --help tells more."""

    def record(self) -> dict[str, Any]:
        """As JSON; the inverse of `of_record`."""
        return config_to_json(self) | {"set": table_of(self.set)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Judging):
    """Clean and robust accuracy of runs, with 95 % intervals, by any attacks.

    With --certify it says beside it what is proven, so that the truth lies between.

    An evaluation that was interrupted, or killed, goes on when the same command is
    given again, if it has a place for its state: --output or --journal.
    """

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Settings from this file: what --output wrote, or JSON or TOML of the same form.
    Flags that are given beside it win."""
    given: Annotated[frozenset[str], tyro.conf.Suppress, tyro.conf.Fixed] = frozenset()
    """Fields whose flags were given, which the command line fills in."""
    settings: Annotated[EvaluationSettings, tyro.conf.arg(name="")] = (
        EvaluationSettings()
    )
    save_images: Path | None = None
    """Also write the images that broke each example to this new .npz file: `images`
    (examples, height, width, channels), float32, and the clean one where none did;
    `labels`, int32; `epsilon`, float64, the smallest radius that broke it, 0 where the
    clean image is lost, inf where none did; `attack`, int32, its place in `attacks`, -1
    where none did, -2 where the clean image is lost. Of one run only."""

    def configured(self) -> "Evaluate":
        """With the settings of --config, where there is one, and the flags beside it.

        Raises:
            ValueError: for a file that is refused.
        """
        if self.config_file is None:
            return self
        file = read_settings(
            self.config_file,
            EvaluationSettings.of_record,
            trust_code=self.networks.trust_code,
            frame="settings",
        )
        settings = beside(file, self.settings, self.given, epsilons="epsilon")
        # Of several values the last one counts.
        changes = file.set + self.settings.set
        settings = dataclasses.replace(settings, set=changes)
        return dataclasses.replace(self, config_file=None, settings=settings)

    def run(self) -> int:
        """Evaluate each run and print a table."""
        require_runs(self.runs)
        return self.configured().evaluate_all()

    def evaluate_all(self) -> int:
        """The work, once all settings are here."""
        settings = self.settings
        attacks = settings.builders()
        methods = named_methods(settings.certify) if settings.certify else {}
        norm = self.norm_or_trained(settings.norm)
        for epsilon in settings.epsilons:
            threat_of(norm).require_epsilon(epsilon)
        self.require_new_files()
        found: dict[Path, Evaluation] = {}
        proven: dict[Path, Certification] = {}
        labels = np.zeros(0, np.int32)
        shown = EvaluationLine(is_wanted=not self.quiet)
        try:
            with self.going_on():
                groups = self.groups(settings.checkpoint)
                self.require_places(self.save_images)
                self.warn_of_precisions([run for alike in groups for run in alike])
                for index, alike in enumerate(groups):
                    journal = self.journal_of(str(index))
                    dataset = self.load(alike, settings)
                    directories = [run.directory for run in alike]
                    if methods:
                        # First: it takes less, and is refused sooner.
                        certified = certify_models(
                            applied(alike[0].network),
                            [run.weights for run in alike],
                            dataset,
                            settings.epsilons,
                            norm=norm,
                            methods=methods,
                            journal=self.journal_of(f"{index}-certified"),
                        )
                        proven |= dict(zip(directories, certified, strict=True))
                    evaluated = self.evaluate(
                        alike, dataset, attacks, norm, journal, shown
                    )
                    labels = np.asarray(dataset.labels, np.int32)
                    found |= dict(zip(directories, evaluated, strict=True))
        finally:
            shown.clear()
        rows = [
            {"model": directory.name, **dataclasses.asdict(found[directory].row())}
            | bracket(proven.get(directory), found[directory])
            for directory in self.runs
        ]
        if hosts.is_primary():
            try:
                # First: what is shown can fail, and the numbers are not to be lost.
                self.write(rows, attacks, norm)
                self.write_images(*found.values(), labels=labels)
            finally:
                self.show(found, rows, norm)
            self.forget_journals()
        return self.told_of_contradictions(rows)

    def told_of_contradictions(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """The exit code: 1, and a message, if an attack broke what is certified."""
        lines = [
            f"jaxrobust: {row['model']}: {broken_note(count, radius)}"
            for row in rows
            for radius, count in row.get("certified", {}).get("num_broken", {}).items()
            if count
        ]
        if lines and hosts.is_primary():
            print("\n".join(lines), file=sys.stderr)
        return FAILED if lines else 0

    def require_new_files(self) -> None:
        """Refuse what would be written over, and images of several runs."""
        self.require_new("output", "save_images")
        if self.save_images is not None:
            remedy = "evaluate the runs one by one"
            path = str(self.save_images)
            count = len(dict.fromkeys(self.runs))
            require(
                count == 1, "save_images", "left out for several runs", path, remedy
            )
            is_npz = self.save_images.suffix == ".npz"
            require(
                is_npz, "save_images", "a name that ends in .npz", path, "append it"
            )

    def write(
        self,
        rows: list[dict[str, Any]],
        attacks: Mapping[str, AttackBuilder],
        norm: str,
    ) -> None:
        """The numbers as JSON, if they are asked for."""
        if self.output is None:
            return
        record = {
            "settings": self.settings.record() | {"norm": norm},
            "judged_at": JUDGED,
            "attacks": {name: described(build) for name, build in attacks.items()},
            "versions": versions(),
            "rows": rows,
        }
        text = json.dumps(plain(record), indent=2) + "\n"
        write_whole(self.output, text, is_new=True)

    def write_images(self, *found: Evaluation, labels: np.ndarray) -> None:
        """The images that broke each example, if they are asked for."""
        if self.save_images is None:
            return
        (evaluation,) = found
        assert evaluation.images is not None
        assert evaluation.image_epsilon is not None
        assert evaluation.image_attack is not None
        content = io.BytesIO()
        np.savez_compressed(
            content,
            images=evaluation.images,
            labels=labels,
            epsilon=evaluation.image_epsilon,
            attack=evaluation.image_attack.astype(np.int32),
            attacks=np.array(evaluation.attacks),
        )
        write_whole(self.save_images, content.getvalue(), is_new=True)

    def show(
        self,
        found: Mapping[Path, Evaluation],
        rows: Sequence[Mapping[str, Any]],
        norm: str,
    ) -> None:
        """Print the numbers, which must arrive if they are kept nowhere else."""
        for directory in self.runs:
            num_bad = sum(found[directory].num_bad_gradients)
            if num_bad:
                print(
                    f"warning: {num_bad} attacks on {directory} met gradients that are "
                    "not finite; its robust accuracy is not to be trusted"
                )
            if count := sum(found[directory].num_unconfirmed):
                print(f"warning: {directory}: {unconfirmed_note(count)}")
        print(f"Robust accuracy in {norm}, pixels in [0, 1]:\n")
        print(markdown_table(interval_table(rows)), end="")
        if self.settings.certify:
            print("\nThe truth lies between what is certified and what attacks left.")
        for row in rows:
            if len(row["attacks"]) > 1:
                print(f"\n{row['model']}, what each attack left:\n")
                print(markdown_table(attack_table(row)), end="")
            if "certified" in row:
                print(
                    f"\n{row['model']}, images by the first method that proves them:\n"
                )
                print(markdown_table(method_table(row["certified"])), end="")
        if self.output is None:
            require_printed()

    def evaluate(
        self,
        alike: Sequence[Run],
        dataset: data.Dataset,
        attacks: Mapping[str, AttackBuilder],
        norm: str,
        journal: Path | None,
        shown: "EvaluationLine",
    ) -> Sequence[Evaluation]:
        """The runs that share a program."""
        settings = self.settings
        require_attacks(
            attacks,
            settings.epsilons,
            norm=norm,
            image_shape=dataset.images.shape[1:],
            num_classes=dataset.num_classes,
        )
        return evaluate_models(
            applied(alike[0].network),
            [run.weights for run in alike],
            dataset,
            attacks,
            settings.epsilons,
            norm=norm,
            search=settings.search,
            matmul_precision=settings.matmul_precision,
            batch_size=settings.batch_size,
            seed=settings.seed,
            journal=journal,
            progress=partial(shown.show, [run.directory.name for run in alike]),
            keep_images=self.save_images is not None,
        )


def bracket(proven: Certification | None, found: Evaluation) -> dict[str, Any]:
    """What a row says of certificates: nothing if there are none.

    `num_broken` counts the certified images that attacks broke, which there are none of
    unless something is wrong.
    """
    if proven is None:
        return {}
    broken = np.sum(broken_certificates(proven, found), axis=1)
    counts = zip(proven.epsilons, broken, strict=True)
    record = dataclasses.asdict(proven.row())
    num_broken = {f"{radius:g}": int(count) for radius, count in counts}
    return {"certified": record | {"num_broken": num_broken}}


class EvaluationLine(ProgressLine):
    """A line on a terminal that says how far an evaluation is."""

    def show(self, names: Sequence[str], progress: Progress) -> None:
        """Write over the line."""
        shares = ", ".join(
            f"ε {radius:g}: {percent(share)}"
            for radius, share in zip(
                progress.epsilons, progress.robust_accuracy, strict=True
            )
        )
        self.write(
            f"{names[progress.model]}, {progress.attack}: {progress.num_done} attacks, "
            f"at most {progress.num_left} left; {shares}"
        )
