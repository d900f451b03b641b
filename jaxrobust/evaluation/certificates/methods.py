"""Methods that prove: functions that bound margins, by name, the cheapest first.

Another method is one more line of `METHODS`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jaxrobust.arguments import require
from jaxrobust.attacks.builders import described
from jaxrobust.bounds import interval_margins, linear_margins
from jaxrobust.references import is_reference, name_of, resolve
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn

__all__ = ["DEFAULT", "METHODS", "Method", "Methods", "description", "named_methods"]

Method = Callable[[LogitsFn, ThreatModel, Images, Labels], Logits]
"""Of images `(batch, *pixels)` and labels `(batch,)` lower bounds of the logit at the
label minus each logit, `(batch, classes)`, for every image that the threat model
allows. What stands at the label does not count, and NaN proves nothing. It is compiled,
with a traced radius, and its bounds must hold as they are rounded."""

METHODS: dict[str, Method] = {
    "interval": interval_margins,
    "crown-ibp": partial(linear_margins, intermediate="interval"),
    "crown": linear_margins,
    "alpha-crown": partial(linear_margins, slopes="optimized"),
}
"""Those of the library, the cheapest first."""

DEFAULT = ("interval",)
"""What proves if nothing is said."""

Methods = str | Method | Sequence[str | Method] | Mapping[str, Method]
"""What proves: names of `METHODS`, path/to/file.py:NAME, functions, or functions by
names."""


def named_methods(methods: Methods) -> dict[str, Method]:
    """Methods by their names, in their order.

    A reference runs the code that it names.

    Raises:
        ValueError: if there is none, for a name that there is not, one that comes
            twice, or what is no function.
    """
    remedy = f"name some of {', '.join(METHODS)}, or give functions"
    if isinstance(methods, Mapping):
        named = dict(methods)
    else:
        if isinstance(methods, str) or callable(methods):
            methods = [methods]
        named = {}
        for method in methods:
            name, function = _found(method)
            once = "name each method once; the first one that proves counts"
            require(name not in named, "methods", "different methods", name, once)
            named[name] = function
    require(bool(named), "methods", "one method or more", methods, remedy)
    for method in named.values():
        rule = "functions (logits_fn, threat, images, labels) -> margins"
        require(callable(method), "methods", rule, method, remedy)
    return named


def _found(method: Any) -> tuple[str, Any]:
    """Name and function of a method that is given by either."""
    if not isinstance(method, str):
        function = method.func if isinstance(method, partial) else method
        name = getattr(function, "__name__", type(function).__name__)
        return ("own" if name == "<lambda>" else name.strip("_")), method
    if method in METHODS:
        return method, METHODS[method]
    near = difflib.get_close_matches(method, METHODS, 1)
    known = f"one of {', '.join(METHODS)}, or path/to/file.py:NAME"
    remedy = f"did you mean {near[0]!r}?" if near else "correct the name"
    require(is_reference(method), "methods", known, method, remedy)
    return method.rpartition(":")[2], resolve(method, what="methods").value


def description(method: Method) -> Any:
    """A method as JSON, by its name and numbers; of code of one's own by its place."""
    if isinstance(method, partial):
        settings = {name: described(value) for name, value in method.keywords.items()}
        given = [described(value) for value in method.args]
        return {"function": name_of(method.func), "arguments": given} | settings
    found = described(method)
    return {"function": found.pop("attack")} | found
