"""What `esper convert` prints and writes."""

from pathlib import Path

import pytest
import torch

from esper.cli import main


def test_convert_says_what_became_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "old" / "a.pt")
    (tmp_path / "old" / "b.pt").write_text("no checkpoint")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'old/a.pt'} → {tmp_path / 'new/a.safetensors'}\n"
    assert output.err.startswith(f"error: {tmp_path / 'old/b.pt'} is not a sound torch checkpoint")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err
