"""What is read from compiled programs, and the gates on it."""

import dataclasses
from collections import Counter

import jax
import pytest

from experiments import compiling, runner
from experiments.benchmarks import compiled
from experiments.compiling import Program
from experiments.costs import Cost, Loop
from experiments.targets import CPU, TARGETS
from jaxrobust.keeping import Kept

NOTHING = {"collectives": {}}


def row(cycles, **fields):
    """A row of a program that passes every gate."""
    form = {name: fields.pop(name) for name in ("collectives",) if name in fields}
    return {
        **dataclasses.asdict(Program(model="lenet", **fields)),
        "training_step": {"cycles": cycles},
        "attack_step": {"cycles": 1},
        "attack_body": NOTHING,
        "rest_of_step": NOTHING | form,
        "donated_share": 0.999,
        "declared": ["f32 x f32"],
        "has_float64": False,
        "host": {},
        "trip_counts": {"attack": 5, "epoch": None},
    }


def failing(rows, target="v5e"):
    rows = compiled.with_choice(rows, TARGETS[target])
    return {
        gate["what"]: gate["value"]
        for gate in compiled.gates(rows, TARGETS[target].platform)
        if not gate["holds"]
    }


@pytest.fixture
def chooses_loops(monkeypatch):
    def chosen_form(platform, program):
        return ("one" if program.members == 1 else "loop"), "auto"

    monkeypatch.setattr(compiled, "chosen_form", chosen_form)


def test_members_may_cost_no_more_than_1_3_times_their_number(chooses_loops):
    one = row(100)
    assert not failing([one, row(1040, members=8, mapping="loop")])
    (what,) = failing([one, row(1041, members=8, mapping="loop")])
    assert what.endswith("cycles over those of 8 single ones")


def test_the_chosen_form_is_among_the_best(chooses_loops):
    chosen = row(110, members=2, mapping="loop")
    assert not failing([chosen, row(100, members=2, mapping="vmap")])
    (value,) = failing([chosen, row(99, members=2, mapping="vmap")]).values()
    assert value == pytest.approx(1.1111, abs=1e-4)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"donated_share": 0.98}, "donated share"),
        ({"rest_of_step": {"collectives": {"all-reduce": 3}}}, "all-reduces a step"),
        ({"attack_body": {"collectives": {"all-gather": 1}}}, "in the attack"),
        ({"declared": ["bf16 x bf16", "f32 x f32"]}, "operand types"),
        ({"has_float64": True}, "float64"),
        ({"host": {"callback": 1}}, "talk with the host"),
    ],
)
def test_what_a_program_must_not_do_fails_its_gate(change, words):
    assert not failing([row(100)])
    (what,) = failing([row(100) | change])
    assert words in what


@pytest.mark.parametrize("target, is_asked", [("h100", True), ("v5e", False)])
def test_a_gpu_must_know_how_long_loops_of_attacks_are(target, is_asked):
    unknown = {"trip_counts": {"attack": None, "epoch": None}}
    assert not failing([row(100)], target)
    found = failing([row(100) | unknown], target)
    assert [what.split(": ")[-1] for what in found] == (
        ["trip count of the attack"] if is_asked else []
    )
    # Nobody knows when Square ends.
    assert not failing([row(100, attack="square") | unknown], target)


def test_an_attack_in_chunks_counts_once():
    product = Cost(products=Counter({"f32 x f32": 1}))
    within, left = Loop("within", 5, product, ()), Loop("left", None, product, ())
    chunks = Loop("chunks", None, Cost(operations=3), (within,))
    epoch = Loop("epoch", None, product, (chunks, left))
    root = Loop("entry", 1, Cost(), (epoch,))
    assert list(compiling._steps(root, 1)) == [(1, epoch, [within])]
    members = Loop("members", None, Cost(), (epoch,))
    root = Loop("entry", 1, Cost(), (members,))
    assert list(compiling._steps(root, 8)) == [(8, epoch, [within])]
    other = Loop("other", None, product.times(2), ())
    root = Loop("entry", 1, Cost(), (epoch._replace(inside=(chunks, left, other)),))
    assert next(compiling._steps(root, 1))[2] == [within, other]


@pytest.mark.parametrize("known, times", [(3, 3), (None, 8)])
def test_members_in_turn_count_where_the_compiler_does_not_say_how_many(known, times):
    product = Cost(products=Counter({"f32 x f32": 1}))
    attack = Loop("attack", None, product, ())
    shuffle = Loop("shuffle", 5, Cost(), ())
    epoch = Loop("epoch", None, product, (shuffle, attack))
    root = Loop("entry", 1, Cost(), (Loop("members", known, Cost(), (epoch,)),))
    assert list(compiling._steps(root, 8)) == [(times, epoch, [attack])]
    alone = Loop("entry", 1, Cost(), (epoch,))
    assert list(compiling._steps(alone, 8)) == [(1, epoch, [attack])]


@pytest.mark.slow
def test_a_step_is_its_attack_and_the_rest_however_members_are_taken(tmp_path):
    small = {"model": "lenet-small", "width": 0.125, "batch_size": 4, "num_steps": 3}
    fields = {**small, "formulation": "patches"}
    kept = Kept(tmp_path)
    rows = {
        mapping: compiling.compiled_row(
            Program(members=count, mapping=mapping, **fields), CPU, kept
        )
        for count, mapping in ((1, "one"), (2, "loop"))
    }
    one, two = rows["one"], rows["loop"]
    # Two convolutions and two dense layers, forward and back to the images.
    assert one["attack_body"]["products"] == {"f32 x f32": 8}
    assert two["attack_body"]["products"] == {"f32 x f32": 8}
    assert two["attack_step"]["operations"] == 2 * two["attack_body"]["operations"]
    for found in rows.values():
        rest, attack = found["rest_of_step"], found["attack_body"]
        assert found["donated_share"] > 0.99 and found["declared"] == ["f32 x f32"]
        whole = found["members"] * (3 * attack["num_bytes"] + rest["num_bytes"])
        assert found["training_step"]["num_bytes"] == whole
        assert found["trip_counts"] == {"attack": None, "epoch": None}
    assert len(list(tmp_path.glob("compiled-*.json"))) == 2


def test_only_a_check_makes_a_failed_gate_the_exit_code(tmp_path, capsys):
    def run(config, workspace):
        gate = {"what": "members", "value": 2.0, "limit": 1.3}
        both = [gate | {"holds": False}, gate | {"holds": True}]
        return {"title": "t", "rows": [], "gates": both}

    def code(*flags):
        arguments = ["--preset", "smoke", "--workdir", str(tmp_path), *flags]
        presets = compiled.PRESETS
        return runner.main("a/b", presets, run, description="", arguments=arguments)

    assert code() == 0
    assert code("--check") == 1
    assert capsys.readouterr().err == "a/b: members is 2.0, limit 1.3\n"


def test_a_target_says_what_a_process_needs():
    assert CPU.devices() == jax.devices("cpu")[:1]
    for target in TARGETS.values():
        assert target.environment["JAX_PLATFORMS"] == "cpu"
