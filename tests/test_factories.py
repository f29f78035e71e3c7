"""Who ended a program: code of a user's own, or a signal's handler."""

from pathlib import Path
from sysconfig import get_path

import pytest

from esper.errors import EsperError
from esper.factories import as_own_failure

CASES = {
    # where the code lies, the code, whether it is a user's own
    "sys.exit in a file of one's own": ("{own}/parts.py", "import sys; sys.exit(3)", True),
    "exit in a file of one's own": ("{own}/parts.py", "exit(3)", True),
    "a scheduler's handler, which is installed": ("{installed}/submitit/core.py", "raise SystemExit(144)", False),
    "esper's own stop": ("{esper}/sweep/tracked.py", "raise SystemExit(143)", False),
}


@pytest.mark.parametrize("case", CASES)
def test_an_exit_is_a_failure_only_where_a_users_own_code_called_it(tmp_path: Path, case: str) -> None:
    place, code, is_own = CASES[case]
    esper = Path(__file__).parents[1] / "esper"
    file = place.format(own=tmp_path, installed=get_path("purelib"), esper=esper)
    with pytest.raises(SystemExit) as left:
        exec(compile(code, file, "exec"), {})
    if is_own:
        failure = as_own_failure(left.value)
        assert isinstance(failure, EsperError) and "line 1: SystemExit: 3" in str(failure)
    else:
        with pytest.raises(SystemExit) as passed:
            as_own_failure(left.value)
        assert passed.value is left.value
