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
