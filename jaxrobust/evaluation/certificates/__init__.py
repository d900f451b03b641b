"""Which examples are certified: what is proven, beside what attacks have found.

`methods` has what proves by name, `tally` is a value that says how far a certification
is, `programs` is what is compiled, `running` brings them together, and `outcome` is
what is proven in the end.
"""

from jaxrobust.evaluation.certificates.methods import METHODS, Method, named_methods
from jaxrobust.evaluation.certificates.outcome import (
    Certification,
    CertifiedRow,
    MethodRow,
    broken_certificates,
    broken_note,
)
from jaxrobust.evaluation.certificates.running import (
    CertificationProgress,
    certify,
    certify_models,
)

__all__ = [
    "METHODS",
    "Certification",
    "CertificationProgress",
    "CertifiedRow",
    "Method",
    "MethodRow",
    "broken_certificates",
    "broken_note",
    "certify",
    "certify_models",
    "named_methods",
]
