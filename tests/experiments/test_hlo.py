"""Texts of compiled programs: small ones by hand, and programs counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from experiments.costs import program_of
from experiments.hlo import Shape, parsed

TEXT = """\
HloModule jit_f, is_scheduled=true

FileNames
1 "/some (odd) path/{x}.py"

%fused (p.0: f32[4,4], p.1: bf16[8,4]) -> f32[8,4] {
  %p.0 = f32[4,4]{1,0} parameter(0)
  %p.1 = bf16[8,4]{1,0} parameter(1)
  %convolution.1 = f32[8,4]{1,0} convolution(%p.1, %p.0), dim_labels=bf_io->bf
  ROOT %add = f32[8,4]{1,0} add(%convolution.1, %convolution.1)
}

%transposed (p.2: f32[8,4]) -> f32[4,8] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  ROOT %t = f32[4,8]{1,0} transpose(%p.2), dimensions={1,0}
}

%rows (p.3: f32[1000,4], p.4: s32[]) -> f32[2,4] {
  %p.3 = f32[1000,4]{1,0} parameter(0)
  %p.4 = s32[] parameter(1)
  ROOT %ds = f32[2,4]{1,0} dynamic-slice(%p.3, %p.4, %p.4), dynamic_slice_sizes={2,4}
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%inner_body (i.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %i.1 = (s32[], f32[8,4]{1,0:T(8,128)S(1)}, /*index=2*/f32[4,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)S(1)} get-tuple-element(%i.1), index=1
  %w = f32[4,4]{1,0} get-tuple-element(%i.1), index=2
  %h = bf16[8,4]{1,0} convert(%x), backend_config={"estimated_cycles":"7"}
  %f = f32[8,4]{1,0} fusion(%w, %h), kind=kOutput, calls=%fused, metadata={op_name="while(x)"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %scatter = f32[8,4]{1,0} select-and-scatter(%f, %f), window={size=1x2}
  ROOT %r.1 = (s32[], f32[8,4]{1,0}) tuple(%x, %scatter)
}

%inner_condition (i.2: (s32[], f32[8,4])) -> pred[] {
  %i.2 = (s32[], f32[8,4]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%i.2), index=0
  ROOT %lt = pred[] compare(%n, %n), direction=LT, backend_config={"estimated_cycles":"3"}
}

%outer_body (o.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %o.1 = (s32[], f32[8,4]{1,0}, f32[1000,4]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%o.1), index=0
  %data = f32[1000,4]{1,0} get-tuple-element(%o.1), index=2
  %batch = f32[2,4]{1,0} fusion(%data, %k), kind=kLoop, calls=%rows
  %while.1 = (s32[], f32[8,4]{1,0}) while(%o.1), condition=%inner_condition, body=%inner_body
  %y = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
  %all-reduce-start.1 = f32[8,4]{1,0} all-reduce-start(%y), to_apply=%sum
  %all-reduce-done.1 = f32[8,4]{1,0} all-reduce-done(%all-reduce-start.1)
  %moved = f32[4,8]{1,0} fusion(%all-reduce-done.1), kind=kLoop, calls=%transposed
  %conv = f32[8,4]{1,0} convolution(%y, %y), window={size=1}, dim_labels=bf_io->bf, feature_group_count=8, operand_precision={highest,highest}
  ROOT %r.2 = (s32[], f32[8,4]{1,0}) tuple(%k, %conv)
}

%outer_condition (o.2: (s32[], f32[8,4])) -> pred[] {
  %o.2 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (arg: f32[8,4]) -> f32[8,4] {
  %arg = f32[8,4]{1,0} parameter(0)
  %copy.1 = f32[8,4]{0,1} copy(%arg), backend_config={"estimated_cycles":"20"}
  %init = (s32[], f32[8,4]{1,0}) tuple(%copy.1)
  %while.2 = (s32[], f32[8,4]{1,0}) while(%init), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %cb = f32[] custom-call(%arg), custom_call_target="xla_ffi_python_cpu_callback"
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.2), index=1
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def program():
    return program_of(parsed(TEXT))


def test_an_instruction_is_read_whatever_stands_beside_it():
    instruction = parsed(TEXT).computations["inner_body"]["f"]
    assert instruction.opcode == "fusion" and instruction.operands == ("w", "h")
    assert instruction.shapes == (Shape("f32", (8, 4)),)
    assert instruction.called == {"calls": ("fused",)} and instruction.cycles == 100
    parameter = parsed(TEXT).computations["inner_body"]["i.1"]
    assert parameter.shapes[1:] == (Shape("f32", (8, 4), 1), Shape("f32", (4, 4)))
    assert parsed(TEXT).dtypes() == {"f32", "bf16", "s32", "pred"}


def test_loops_are_a_tree_with_the_trip_counts_that_are_known(program):
    (outer,) = program.inside
    (inner,) = outer.inside
    assert (outer.name, outer.trip_count) == ("outer_body", 5)
    assert (inner.name, inner.trip_count) == ("inner_body", None)
    assert inner.inside == ()


def test_cycles_are_those_of_body_and_condition_times_trips(program):
    (outer,) = program.inside
    (inner,) = outer.inside
    assert inner.own.cycles == 7 + 100 + 3
    assert program.own.cycles == 20
    assert program.cost().cycles == 20 + 5 * 110
    assert inner.own.unestimated == {"select-and-scatter": 1}


def test_products_are_counted_in_fusions_with_types_and_precision(program):
    (outer,) = program.inside
    (inner,) = outer.inside
    assert inner.own.products == {"bf16 x f32": 1}
    assert inner.own.convolutions == {}  # it has no window: a matrix product
    assert outer.own.products == {"f32 x f32 highest": 1}
    assert outer.own.convolutions == {8: 1}
    assert program.num_products == 2


def test_what_is_moved_is_counted_without_what_stays_on_the_chip(program):
    (outer,) = program.inside
    (inner,) = outer.inside
    # Of `h` only what is written, since `x` lies on the chip; `f` reads 4 x 4 numbers
    # and `h`; the scatter reads `f` twice. The comparison reads and writes a number.
    assert inner.own.num_bytes == 64 + (64 + 64 + 128) + 3 * 128 + (4 + 4 + 1)
    # Two rows of the thousand, and the number that says which.
    batch, sums, moved, conv = 2 * 32 + 4, 2 * 128, 2 * 128, 3 * 128
    assert outer.own.num_bytes == batch + sums + moved + conv


def test_copies_transposes_collectives_and_calls_back_are_counted(program):
    (outer,) = program.inside
    assert program.own.copies == 1 and outer.own.transposes == 1
    assert outer.own.collectives == {"all-reduce": 1}
    assert program.own.host == {"xla_ffi_python_cpu_callback": 1}
    # The fusion, the collective, the transpose and the convolution.
    assert outer.own.operations == 4


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="`text` must be that of a compiled program"):
        parsed("nothing")


def test_a_real_program_has_the_loops_and_products_that_were_written():
    def function(matrix, count):
        def inner(_, value):
            return jnp.tanh(value @ matrix)

        def outer(value, _):
            return lax.fori_loop(0, count, inner, value) @ matrix, None

        return lax.scan(outer, matrix, length=7)[0]

    matrix = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    text = jax.jit(function).lower(matrix, count).compile().as_text()
    module = parsed(text)
    program = program_of(module)
    (outer,) = [loop for loop in program.inside if loop.num_products]
    (inner,) = [loop for loop in outer.inside if loop.num_products]
    assert outer.trip_count == 7 and inner.trip_count is None
    assert outer.num_products == 2 and inner.num_products == 1
    assert program.cost(unknown=3).products.total() == 7 * (1 + 3)
    assert "f64" not in module.dtypes()
