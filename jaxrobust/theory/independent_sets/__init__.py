"""Heaviest independent sets, each with a bound that can be checked.

An independent set holds no two neighbors of a graph, and what it leaves out is a vertex
cover. With two classes the conflicts of robust classification make a bipartite graph,
where a maximum flow gives the optimum (König, Egerváry). With more it is NP-hard, and
three steps keep the hard part small: components are solved apart; the linear
relaxation, which is a flow too, settles many vertices for good (Nemhauser and Trotter);
the rest goes to an integer program whose constraints are cliques.

The proof of a bound is a clique cover. At most one vertex of a clique is chosen, so any
non-negative amounts on cliques bound every independent set: `certified_bound`.
"""

from jaxrobust.theory.independent_sets.cliques import CliqueCover, certified_bound
from jaxrobust.theory.independent_sets.heaviest import (
    IndependentSet,
    maximum_independent_set,
)

__all__ = [
    "CliqueCover",
    "IndependentSet",
    "certified_bound",
    "maximum_independent_set",
]
