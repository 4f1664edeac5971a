"""What the tests of sources share: a way to read one, and small files in the true annotation formats."""

import json
from pathlib import Path

import pytest

from corl_cli.core.recipe import SourceSpec
from corl_cli.data.items import Dropped
from corl_cli.data.sources import bind

LICENCE = [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}]


@pytest.fixture
def read():
    """read(name, **options): what a source offers and what it drops, its files checked first as the builder does."""

    def read(name, **options):
        source = bind(SourceSpec(name=name, **options), seed=0)
        source.files()
        items = list(source.items())
        drops = [item for item in items if isinstance(item, Dropped)]
        return [item for item in items if not isinstance(item, Dropped)], drops

    return read


@pytest.fixture
def write(tmp_path):
    """write(name, content): a file below the test's folder, JSON unless it is text."""

    def write(name, content) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def coco(tmp_path, write):
    """Options of a COCO caption file of three images, the last without a caption, in the format of captions_val2017."""
    images = [
        {
            "license": 4,
            "file_name": f"{key:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/val2017/{key:012d}.jpg",
            "height": 427,
            "width": 640,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
            "id": key,
        }
        for key in (397133, 37777, 252219)
    ]
    annotations = [
        {"image_id": 37777, "id": 1, "caption": "A kitchen with a table."},
        {"image_id": 397133, "id": 2, "caption": "A man is in a kitchen making pizzas."},
        {"image_id": 37777, "id": 3, "caption": "A bowl of oranges on a table. "},
    ]
    info = {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "version": "1.0", "year": 2017}
    content = {"info": info, "licenses": LICENCE, "images": images, "annotations": annotations}
    (tmp_path / "val2017").mkdir()
    return {"captions": write("captions_val2017.json", content), "images": tmp_path / "val2017"}
