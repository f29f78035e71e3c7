"""What `esper audit` prints and writes."""

from pathlib import Path

import pytest
import torch

from esper.cli import main
from tests.checkpoint.evil import evil_files


def test_malicious_files_are_audited_and_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, proof = evil_files(tmp_path)
    evil = str(files["zip"])
    assert main(["audit", evil]) == 0 and main(["audit", "--strict", evil]) == 1
    assert "system(...) → CRITICAL: runs code when loaded; do not load" in capsys.readouterr().out
    assert main(["audit", "--iterative", evil]) == 0
    assert "Unsafe globals" in capsys.readouterr().out
    assert main(["convert", evil, str(tmp_path / "new")]) == 2
    assert not proof.exists()
    error = capsys.readouterr().err
    assert "system" in error
    assert "--trust" in error
    assert len(error.splitlines()) == 2
    main(["convert", "--trust", evil, str(tmp_path / "new")])
    assert proof.exists()


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    assert main(["audit", "--write-docs", str(tmp_path / "page.md")]) == 0
    assert "| Legacy agent | FAILED | 5 |" in (tmp_path / "page.md").read_text()


def test_an_audit_s_exit_code_says_whether_the_file_loads_safely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value, code in (({"w": torch.ones(2)}, 0), ({"when": Path("a")}, 1)):
        torch.save(value, tmp_path / "a.pt")
        assert main(["audit", "--strict", str(tmp_path / "a.pt")]) == code
        assert ("SUCCESS" in capsys.readouterr().out) == (code == 0)
    assert main(["audit"]) == 2
    assert capsys.readouterr().err == "error: audit which file?\n  esper audit FILE.pt, or see esper audit --help\n"
