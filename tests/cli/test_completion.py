"""What a shell completes `esper` by."""

import subprocess
from pathlib import Path

import pytest

from esper.cli import main


def test_the_shell_completes_commands_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def completed(*words: str) -> str:
        script = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_esper; echo ${{COMPREPLY[@]}}"
        shell = ["bash", "-c", f"source {tmp_path}/esper.bash; {script}"]
        return subprocess.run(shell, capture_output=True, text=True, timeout=20, cwd=tmp_path).stdout.strip()

    assert main(["completion", "bash"]) == 0
    (tmp_path / "esper.bash").write_text(capsys.readouterr().out)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "other.txt").touch()
    assert completed("esper", "ru") == "run runs"
    assert completed("esper", "analyze", "--format", "js") == "json"
    assert completed("esper", "report", "o") == "outputs"


def test_the_shell_completes_what_a_run_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def completed(line: str, *words: str) -> list[str]:
        place = f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_CWORD={len(words) - 1}"
        script = f"{place}; COMP_WORDS=({' '.join(words)}); _shtab_esper; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        shell = ["bash", "-c", f"export XDG_CACHE_HOME={tmp_path}; source {tmp_path}/esper.bash; {script}"]
        return subprocess.run(shell, capture_output=True, text=True, timeout=20, cwd=tmp_path).stdout.split()

    assert main(["completion", "bash"]) == 0
    (tmp_path / "esper.bash").write_text(capsys.readouterr().out)
    rewards = ["reward=contribution", "reward=minimal", "reward=sparse"]
    assert completed("esper run rewa", "esper", "run", "rewa") == rewards
    parts = tmp_path / "esper/parts"  # where plugins are remembered
    parts.mkdir(parents=True)
    (parts / "my_parts").write_text("plugins=[my_parts]\npolicy=my_rule\n")
    assert completed("esper run policy=my", "esper", "run", "policy", "=", "my") == ["my_rule"]
    assert {"my_rule", "heuristic"} <= set(completed("esper run policy=", "esper", "run", "policy", "=", "="))
