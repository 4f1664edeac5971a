"""`corl doctor`: true of this machine, whatever it has."""

import json

import torch
from typer.testing import CliRunner

from corl_cli.cli.app import app


def test_doctor_looks_at_everything_once():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert len(findings) == len(json.loads(result.stdout))
    assert torch.__version__ in findings["torch"]["detail"]
    threads = torch.get_num_threads()
    assert findings["torch"]["detail"].endswith(", 1 thread" if threads == 1 else f", {threads} threads")
    assert findings["GPU"]["state"] == ("ok" if torch.cuda.is_available() else "missing")
    assert findings["torchvision"]["state"] in ("ok", "broken")
    assert any("cycle (text: spice)" in finding["purpose"] for finding in findings.values())
    for finding in findings.values():
        assert finding["detail"]
        assert finding["state"] == "ok" or finding["remedy"] or finding["state"] == "download"


def test_doctor_as_a_table_ends_with_what_to_do():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "torchvision" in result.stdout
