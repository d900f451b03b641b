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


EXACT = pytest.param("exact", FILES, id="exact")
# All else that is quick, and what is equal up to rounding: a test for each file, so
# that many are there, which are given out early where several processes run tests.
REST = [
    pytest.param("not exact and not slow", [file], id=Path(file).stem) for file in FILES
]


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "files"), [EXACT, *REST])
def test_claims_hold_with_the_default_flags(chosen, files, tmp_path):
    changed = {
        "JAXROBUST_TESTS_DEFAULT_FLAGS": "1",
        "JAXROBUST_TESTS_ORDER": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", chosen, *files],
        cwd=TESTS.parent,
        env=os.environ | changed,
        capture_output=True,
        text=True,
    )
    # 5: the file has no such test.
    assert done.returncode in (0, 5), done.stdout + done.stderr
