"""Each code that a user may read has its place in the documentation."""
import os

from storage_motion import errors

PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "operations.md")


def test_each_code_is_documented_with_what_to_do():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MotionError)]
    with open(PAGE, encoding="utf-8") as page:
        told = [line for line in page if line.startswith("| ") or "`SXM_" in line]
    missing = sorted(kind.code for kind in kinds if not any("`%s`" % kind.code in line for line in told))
    assert len(kinds) > 40 and missing == []
