"""What a machine can do: figures of the right size and unit, not how fast it was."""

import torch

from corl_cli.pipelines import machine


def test_the_rates_of_this_machine():
    found = machine.measure(torch.device("cpu"))
    assert 1e8 < found.bandwidth < 1e13, "bytes a second"
    assert set(found.arithmetic) == {"float32", "bfloat16"}
    assert all(1e7 < rate < 1e15 for rate in found.arithmetic.values()), "operations a second"
    assert found.memory == machine.free_memory(torch.device("cpu")) > 2**28
    assert found.name.endswith("thread") or found.name.endswith("threads")
    assert str(found).startswith(f"{found.name}: ")


def test_versions_name_what_speed_depends_on():
    found = machine.versions()
    assert found["torch"] == torch.__version__
    assert {"corl", "python", "transformers"} <= set(found)


def test_seconds_are_of_the_call_alone():
    calls = []
    assert machine.seconds(lambda: calls.append(1), torch.device("cpu")) >= 0
    assert calls == [1]
