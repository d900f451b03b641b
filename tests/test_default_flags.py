"""What is exact is so with the compiler's default flags, too, as users have them.

Tests compile with the flags of `conftest.py`, which make other programs: these fuse
less, so that they round at other places. Tests marked `exact` run once more in a
process without those flags.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# To collect all files would take as long as to run these.
FILES = [
    str(path)
    for path in sorted(TESTS.rglob("test_*.py"))
    if path != Path(__file__) and "pytest.mark.exact" in path.read_text()
]


# The second: all of these files, every attack, and what is equal up to rounding.
@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["exact and not slow", "not exact or slow"])
def test_claims_hold_with_the_default_flags(chosen, tmp_path):
    changed = {
        "JAXROBUST_TESTS_DEFAULT_FLAGS": "1",
        "JAXROBUST_TESTS_ORDER": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", chosen, *FILES],
        cwd=TESTS.parent,
        env=os.environ | changed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
