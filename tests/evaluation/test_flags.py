"""Attacks as flags are the attacks that the flags choose."""

from functools import partial
from pathlib import Path

import pytest

from jaxrobust.attacks import PGD, auto_pgd, with_restarts, worst_of
from jaxrobust.evaluation import standard_ensemble
from jaxrobust.evaluation.choosing import chosen_attacks
from jaxrobust.evaluation.flags import attack_flags

OWN = f"{Path(__file__).parents[1] / 'open' / 'own_attack.py'}:creeping"


@pytest.mark.parametrize(
    ("names", "changes"),
    [
        (["standard"], []),
        (["pgd"], [("num_steps", "50")]),
        (["pgd"], [("num_steps", "none"), ("random_start", "false")]),
        (["standard"], [("num_steps", "7"), ("num_queries", "9")]),
        (["apgd-ce"], []),
        (["apgd-ce", "apgd-t"], [("apgd-t.num_steps", "7")]),
        (["pgd", "fmn"], [("pgd.num_steps", "5"), ("loss", "margin")]),
        (["pgd", OWN], [("num_restarts", "2"), ("creeping.num_steps", "2")]),
    ],
)
def test_they_are_those_that_were_given(names, changes):
    flags = attack_flags(chosen_attacks(names, changes))
    assert flags is not None
    assert flags.attack == tuple(names)
    assert sorted(flags.set) == sorted(changes)


def test_a_setting_that_is_what_it_was_needs_no_words():
    attacks = chosen_attacks(["apgd-ce"], [("num_steps", "100")])
    assert attack_flags(attacks) == (("apgd-ce",), ())


def test_those_of_python_are_told_where_a_command_has_them():
    flags = attack_flags(standard_ensemble(num_steps=3, num_restarts=2))
    assert flags is not None
    assert flags.words == [
        *("--attack", "standard", "--set", "num_steps", "3"),
        *("--set", "num_restarts", "2", "--set", "fab-t.random_start", "true"),
    ]
    flags = attack_flags({"apgd-ce": with_restarts(auto_pgd, 3)})
    assert flags == (("apgd-ce",), (("num_restarts", "3"),))


@pytest.mark.parametrize(
    "build",
    [
        PGD(num_steps=3),  # with one start; the command's has several
        partial(auto_pgd, loss=lambda logits, labels: logits[:, 0]),
        worst_of(PGD(num_steps=3), auto_pgd),
        lambda threat: PGD(num_steps=3)(threat),
    ],
)
def test_what_no_flags_choose_is_told_apart(build):
    assert attack_flags({"pgd": build}) is None
    assert attack_flags({"mine": build}) is None
