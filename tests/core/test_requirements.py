import pytest

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, demand

HEADS = Requirement(name="heads", state="missing", detail="no file", remedy="pip install --no-deps lpips")
JAVA = Requirement(name="Java", state="broken", detail="too old", remedy="apt-get install default-jre")
CLIP = Requirement(name="CLIP", state="download", detail="from the hub", remedy="hf download org/clip")


def test_what_is_there_or_can_be_fetched_passes():
    demand([CLIP, Requirement(name="net", state="ok", detail="here")], "LPIPS")


def test_everything_that_lacks_is_named_once_with_its_remedy():
    with pytest.raises(CorlError) as raised:
        demand(iter([HEADS, CLIP, JAVA, HEADS]), "cycle")
    assert raised.value.message.splitlines() == [
        "cycle needs heads (missing): no file.",
        "cycle needs Java (broken): too old.",
    ]
    assert raised.value.hint == "pip install --no-deps lpips\napt-get install default-jre"
