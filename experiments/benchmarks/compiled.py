"""What the compilers of TPUs and GPUs make of the programs, without such a device.

    python -m experiments benchmarks/compiled --preset v5e --check

Training epochs, sweeps and packed evaluations are compiled ahead of time for devices
that are not there, and what the compiler estimates and has written is read from its
text. **Cycles and bytes are the compiler's static estimates, no measurements of a
device**: they count operations that it estimates, and not what waits for what; those
that have no estimate are listed. Sweeps are compiled in every form that the library
could choose, so that its choice is seen to be right or wrong; with `--check` the exit
code is 1 where a gate does not hold. What was compiled is kept beside the models, and
compiled again when the program, the compiler or its flags are others.

For TPUs: `pip install -e '.[compiled]'`; for the H100: `pip install -e '.[cuda12]'`, in
an environment of its own. Set JAX_PLATFORMS=cpu where no such device is.

Presets:
    smoke: this machine's CPU, small programs.
    before: choices of an earlier revision for MNIST on a TPU v5e.
    v5e: MNIST networks and eight members on one chip of a TPU v5e; about 15 minutes on
        2 cores.
    v5e-buckets: PGD on packed images, by how many are attacked at once.
    v5e-evaluations, v5e-networks, v5e-widths: packed evaluations; residual networks;
        other widths, numbers of members and types. Up to an hour each.
    v5e-2x2, v5e-4x4: meshes of 4 and 16 chips.
    v5e-2slices: two slices of 4 chips.
    h100: one NVIDIA H100, evaluations among them; it has no estimates of cycles.
    h100-networks, h100-widths: as for a TPU.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from experiments.compiling import EVALUATED, Compiler, Program
from experiments.targets import TARGETS, Target
from experiments.workspace import ROOT, Workspace
from jaxrobust.keeping import read_json
from jaxrobust.networks import ModelConfig
from jaxrobust.networks.layers import Formulation
from jaxrobust.training.step.members import Mapping as Form
from jaxrobust.training.step.members import mapping_for, model_for

BEFORE = ROOT / "benchmarks" / "results" / "compiled-before.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is compiled for what."""

    target: str
    programs: tuple[Program, ...]


FORMS: dict[str, tuple[tuple[Form, Formulation], ...]] = {
    "gpu": (("vmap", "patches"), ("vmap", "auto"), ("loop", "auto")),
    "tpu": (("loop", "auto"), ("vmap", "auto"), ("vmap", "patches")),
}
"""In which several members of a device may be compiled, by platform."""


def _forms(platform: str, **fields: Any) -> tuple[Program, ...]:
    """Several members in every form that the library could choose."""
    case = Program(**fields)
    return tuple(
        dataclasses.replace(case, mapping=mapping, formulation=formulation)
        for mapping, formulation in FORMS[platform]
    )


CIFAR: dict[str, Any] = {"num_steps": 10}


def _members(platform: str) -> tuple[Program, ...]:
    """The MNIST networks alone, and eight members in every form."""
    return (
        Program(model="lenet"),
        Program(model="lenet", formulation="direct"),
        *_forms(platform, model="lenet", members=8),
        Program(model="lenet-same"),
        *_forms(platform, model="lenet-same", members=8),
    )


def _evaluations() -> tuple[Program, ...]:
    """Packed evaluations."""
    evaluated: dict[str, Any] = {"model": "lenet", "batch_size": 2048}
    return tuple(Program(attack=attack, **evaluated) for attack in EVALUATED)


def _networks() -> tuple[Program, ...]:
    """Residual networks."""
    return (
        Program(model="resnet18", **CIFAR),
        Program(model="wrn28", width=4.0, **CIFAR),
        Program(model="resnet50", **CIFAR),
    )


def _widths(platform: str) -> tuple[Program, ...]:
    """Other widths, numbers of members and types."""
    forms = partial(_forms, platform)
    return (
        Program(model="lenet", width=0.25),
        *forms(model="lenet", width=0.25, members=8),
        Program(model="lenet-same", width=0.25),
        Program(model="lenet", formulation="patches"),
        Program(model="lenet", precision="bfloat16"),
        *forms(model="lenet", members=2),
        *forms(model="lenet", members=16),
    )


def _sweep(member: int, data: int) -> Program:
    """One member on each row of devices, with the batch of a single device on each."""
    size = 128 * data
    return Program(
        model="lenet", members=member, member=member, data=data, batch_size=size
    )


SMALL: dict[str, Any] = {"model": "lenet-small", "width": 0.125, "batch_size": 8}

PRESETS = {
    "smoke": Config(
        target="cpu",
        programs=(
            Program(members=2, mapping="loop", **SMALL),
            Program(attack="pgd", **SMALL),
        ),
    ),
    "before": Config(
        target="v5e",
        programs=tuple(
            program
            for model in ("lenet", "lenet-same")
            for program in (
                Program(model=model, formulation="direct"),
                Program(model=model, members=8, mapping="vmap", formulation="patches"),
            )
        ),
    ),
    "v5e": Config(target="v5e", programs=_members("tpu")),
    "v5e-evaluations": Config(target="v5e", programs=_evaluations()),
    "v5e-buckets": Config(
        target="v5e",
        programs=tuple(
            Program(attack="pgd", model="lenet", batch_size=size)
            for size in (128, 512, 2048)
        ),
    ),
    "v5e-networks": Config(target="v5e", programs=_networks()),
    "v5e-widths": Config(target="v5e", programs=_widths("tpu")),
    "v5e-2x2": Config(
        target="v5e-2x2",
        programs=(
            _sweep(2, 2),
            Program(model="resnet18", data=4, batch_size=512, **CIFAR),
        ),
    ),
    "v5e-4x4": Config(target="v5e-4x4", programs=(_sweep(4, 4), _sweep(16, 1))),
    "v5e-2slices": Config(target="v5e-2slices", programs=(_sweep(2, 4), _sweep(8, 1))),
    "h100": Config(
        target="h100",
        programs=(
            *_members("gpu"),
            Program(model="resnet18", **CIFAR),
            *_evaluations(),
        ),
    ),
    "h100-networks": Config(target="h100", programs=_networks()),
    "h100-widths": Config(target="h100", programs=_widths("gpu")),
}


def chosen_form(platform: str, program: Program) -> tuple[Form, Formulation]:
    """The form that the library chooses on a platform."""
    count = program.members // program.member
    size = program.batch_size // program.data
    mapping = mapping_for(platform, count, size, program.width)
    model = ModelConfig(name=program.model, widen_factor=program.width)
    return mapping, model_for(model, platform, mapping).formulation


def _cycles(row: Mapping[str, Any]) -> int:
    """What is compared between forms."""
    return (row["training_step"] or row["attack_step"])["cycles"]


def _program(row: Mapping[str, Any]) -> Program:
    return Program(
        **{field.name: row[field.name] for field in dataclasses.fields(Program)}
    )


def _label(row: Mapping[str, Any]) -> str:
    program = _program(row)
    return f"{program.title}, {program.members} x {program.mapping}"


def with_choice(
    rows: Sequence[Mapping[str, Any]], target: Target
) -> list[dict[str, Any]]:
    """Rows that know whether the library chooses their form."""
    found = []
    for row in rows:
        form = (row["mapping"], row["formulation"])
        is_chosen = form == chosen_form(target.platform, _program(row))
        found.append({**row, "is_chosen": is_chosen})
    return found


def gates(rows: Sequence[Mapping[str, Any]], platform: str) -> list[dict[str, Any]]:
    """What must hold: objects with `what`, `value`, `limit` and `holds`.

    Args:
        rows: of programs, with `is_chosen`.
        platform: that they are compiled for.
    """
    found: list[dict[str, Any]] = []

    def add(what: str, value: Any, limit: Any, holds: bool) -> None:
        found.append({"what": what, "value": value, "limit": limit, "holds": holds})

    def at_most(what: str, value: float, limit: float) -> None:
        add(what, round(value, 5), limit, value <= limit)

    cases: dict[Program, list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault(_program(row).case, []).append(row)
    chosen = {
        case: row for case, forms in cases.items() for row in forms if row["is_chosen"]
    }
    for case, forms in cases.items():
        row = chosen.get(case)
        one = chosen.get(dataclasses.replace(case, members=1))
        if row is None or not _cycles(row):
            continue
        if case.members == 8 and case.member == 1 and one is not None:
            what = f"{_label(row)}: cycles over those of 8 single ones"
            at_most(what, _cycles(row) / (8 * _cycles(one)), 1.3)
        if len(forms) > 1:
            best = min(map(_cycles, forms))
            at_most(
                f"{_label(row)}: cycles over the best form", _cycles(row) / best, 1.1
            )
    for row in rows:
        label = (
            f"{_label(row)} {row['formulation']}, mesh {row['member']}x{row['data']}"
        )
        if row["donated_share"] is not None:
            share = round(row["donated_share"], 5)
            add(f"{label}: donated share of the output", share, 0.99, share >= 0.99)
        if row["rest_of_step"] is not None and row["model"].startswith("lenet"):
            reduced = row["rest_of_step"]["collectives"].get("all-reduce", 0)
            at_most(f"{label}: all-reduces a step", reduced, 2)
        if row["model"].startswith("lenet"):
            count = sum(row["attack_body"]["collectives"].values())
            at_most(f"{label}: collectives in the attack", count, 0)
        kind = {"float32": "f32", "bfloat16": "bf16"}[row["precision"]]
        limit = [f"{kind} x {kind}"]
        what = f"{label}: operand types that the program asks for"
        add(what, row["declared"], limit, row["declared"] == limit)
        what = f"{label}: float64"
        add(what, row["has_float64"], False, not row["has_float64"])
        add(f"{label}: talk with the host", row["host"], {}, not row["host"])
        # Data decide when Square ends.
        if platform == "gpu" and row["attack"] != "square":
            count = row["trip_counts"]["attack"]
            add(f"{label}: trip count of the attack", count, "known", bool(count))
    return found


def _before(rows: Sequence[dict[str, Any]]) -> None:
    """Note in the rows what the choice of the earlier revision cost."""
    earlier = read_json(BEFORE)
    known = {
        _program(row).case: _cycles(row) for row in earlier["rows"] if row["is_chosen"]
    }
    for row in rows:
        if row["is_chosen"] and (cycles := known.get(_program(row).case)):
            row["before"] = {"cycles": cycles, "revision": earlier["revision"]}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compile every program, and check the gates."""
    target, rows = TARGETS[config.target], []
    workspace.note_work()
    with Compiler(config.target, workspace.models) as compiler:
        for program in config.programs:
            row = compiler.row(program)
            workspace.seconds += row["compile_seconds"]
            rows.append(row)
            step = row["attack_step"]
            what = "cycles" if step["cycles"] else "operations"
            workspace.say(
                f"{_label(row)} {row['formulation']}: {step[what]:,} {what} an attack "
                f"step, compiled in {row['compile_seconds']:.0f} s"
            )
    rows = with_choice(rows, target)
    if config.target == "v5e" and BEFORE.is_file():
        _before(rows)
    checked = gates(rows, target.platform)
    failed = [gate for gate in checked if not gate["holds"]]
    notes = [
        "Compiler estimates, not measurements: what XLA writes beside the operations "
        "of a program that it compiled for a device that is not there.",
        f"{len(checked) - len(failed)} of {len(checked)} gates hold."
        + "".join(
            f" Not: {gate['what']} ({gate['value']}, limit {gate['limit']})."
            for gate in failed
        ),
    ]
    result = {"rows": rows, "config": {"target": config.target}}
    return {
        "title": "Programs compiled for devices that are not there",
        "rows": rows,
        "gates": checked,
        "notes": notes,
        "tables": {"Compiler estimates, not measurements": results_table(result)},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file.

    Columns are left out where no row has anything to say.
    """
    header = ["program", "members", "mesh", "form", "attack step (cycles)"]
    header += ["training step (cycles)", "a member", "before", "of peak"]
    header += ["attack step (MB)", "operations", "convolutions x groups", "copies"]
    header += ["all-reduces", "arguments + temporary (MB)", "donated"]
    header += ["trip count of the attack", "products", "no estimate for", "compiled in"]
    # The compiler of TPUs does not write them down.
    has_trips = TARGETS[result["config"]["target"]].platform != "tpu"
    lines = []
    for row in result["rows"]:
        body, rest = row["attack_body"], row["rest_of_step"]
        unestimated = body["unestimated"] if body["cycles"] else {}
        whole, attack = row["training_step"], row["attack_step"]
        count = row["members"] // row["member"]
        share, donated = row["share_of_peak"], row["donated_share"]
        trips = row["trip_counts"]["attack"]
        convolutions = attack["convolutions"].items()
        reduced = rest["collectives"].get("all-reduce", 0) if rest else 0
        inside = sum(body["collectives"].values())
        sizes = row["argument_bytes"], row["temporary_bytes"]
        mark = " (chosen)" if row["is_chosen"] else ""
        lines.append(
            [
                _program(row).title,
                str(row["members"]),
                f"{row['member']} x {row['data']}",
                f"{row['mapping']}, {row['formulation']}{mark}",
                f"{attack['cycles']:,}" if attack["cycles"] else "",
                f"{whole['cycles']:,}" if whole and whole["cycles"] else "",
                f"{attack['cycles'] // count:,}" if attack["cycles"] else "",
                f"{row['before']['cycles']:,}" if "before" in row else "",
                "" if share is None else f"{100 * share:.1f} %",
                f"{attack['num_bytes'] / 1e6:,.1f}",
                str(attack["operations"]),
                ", ".join(f"{number} x {groups}" for groups, number in convolutions),
                str(attack["copies"] + attack["transposes"]),
                f"{reduced} + {inside}",
                " + ".join(f"{size / 1e6:,.0f}" for size in sizes),
                "" if donated is None else f"{100 * donated:.3f} %",
                str(trips or "none known") if has_trips else "",
                ", ".join(f"{n} {kind}" for kind, n in body["products"].items()),
                ", ".join(f"{n} {kind}" for kind, n in unestimated.items()),
                f"{row['compile_seconds']:.0f} s",
            ]
        )
    columns = zip(header, *lines, strict=True)
    told = [column for column in columns if any(column[1:])]
    return [list(line) for line in zip(*told, strict=True)]
