import json
import math

from corl_cli.core.numbers import finite


def test_what_json_does_not_have_is_null_wherever_it_stands():
    value = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": ("x", 2, None, True)}
    assert finite(value) == {"a": None, "b": [1.5, None, {"c": None}], "d": ["x", 2, None, True]}
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == finite(value)
