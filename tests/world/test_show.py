from PIL import Image
from typer.testing import CliRunner

from corl_cli.cli.app import app


def test_a_sheet_of_scenes(tmp_path):
    file = tmp_path / "sheets" / "world.png"
    result = CliRunner().invoke(app, ["world", "show", "--out", str(file), "--split", "test", "--n", "5"])
    assert result.exit_code == 0, result.output
    with Image.open(file) as sheet:
        assert sheet.width > sheet.height > 300


def test_another_format_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["world", "show", "--out", str(tmp_path / "world.jpg")])
    assert result.exit_code == 2
    assert "world.png" in result.output
