import subprocess
import sys

import pytest
import torch

from corl_cli.pipelines.memory import Memory

CPU = torch.device("cpu")


@pytest.fixture
def memory():
    """Counting from now on."""
    found = Memory(CPU)
    if found.start is None:
        pytest.skip("this system does not tell the peak of a process")
    return found


def test_the_peak_counts_what_was_held_in_between(memory):
    torch.ones(16 * 2**20)  # 64 MiB, freed at once
    assert 60 < memory.peak() < 200


def test_the_peak_counts_processes_that_were_started_since(memory):
    code = "held = bytearray(64 * 2**20); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        counted, later = memory.peak(), Memory(CPU).peak()
        child.communicate(b"\n")
    assert counted > 60
    assert later < 60
