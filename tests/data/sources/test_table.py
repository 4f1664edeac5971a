import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import SourceSpec
from corl_cli.data.sources import bind


def summary(raws):
    return [(raw.id, raw.image if isinstance(raw.image, bytes) else raw.image.name, raw.captions) for raw in raws]


def test_a_folder_of_images_with_captions_beside_them(read, write, tmp_path):
    for name in ("pets/b.JPG", "pets/a.png", "pets/more/c.webp", "pets/notes.md"):
        write(name, "")
    write("pets/a.txt", "A cat.\n\n  Asleep. \n")
    write("pets/more/c.txt", "")
    offered, dropped = read("table", path=tmp_path / "pets")
    assert summary(offered) == [
        ("own-a.png", "a.png", ("A cat.", "Asleep.")),
        ("own-b.JPG", "b.JPG", ()),
        ("own-more/c.webp", "c.webp", ()),
    ]
    assert offered[2].image == tmp_path / "pets" / "more" / "c.webp"
    assert not dropped


def test_the_fingerprint_of_a_folder_tells_every_change_that_items_come_from(write, tmp_path):
    def fingerprint():
        return bind(SourceSpec(name="table", path=tmp_path / "pets"), seed=0).fingerprint()

    write("pets/a.png", "1")
    found = [fingerprint()]
    for name, content in [("b.png", "1"), ("a.png", "12"), ("a.txt", "A cat."), ("more/c.png", "1")]:
        write(f"pets/{name}", content)
        found.append(fingerprint())
    (tmp_path / "pets" / "b.png").rename(tmp_path / "pets" / "c.png")
    found.append(fingerprint())
    assert len(set(found)) == len(found)
    write("pets/notes.md", "no image")
    assert fingerprint() == found[-1]
    write("pets/metadata.csv", "file_name,text\n")
    assert fingerprint() == ""  # the table is hashed itself


def test_an_image_folder_with_metadata_as_datasets_has_it(read, write, tmp_path):
    write("pets/a.png", "")
    metadata = write("pets/metadata.csv", "file_name,text\nsub/a.png,A cat.\n,No image.\nb.png,\n")
    offered, dropped = read("table", path=tmp_path / "pets", label="pets")
    assert summary(offered) == [("pets-0", "a.png", ("A cat.",)), ("pets-2", "b.png", ("",))]
    assert offered[0].image == tmp_path / "pets" / "sub" / "a.png"
    assert [drop.reason for drop in dropped] == ["no image"]
    assert metadata.parent == tmp_path / "pets"


def test_columns_by_the_users_own_names(read, write, tmp_path):
    path = write(
        "own.csv",
        "key,picture,description,asked,truth,kind\n"
        'x1,a.png,A red bus.,"Which?\nA. bus\nB. car",A,mc\n'
        "x2,b.png,A car.,What is it?,car,oe\n"
        "x3,c.png,A car.,What is it?,car,essay\n",
    )
    columns = {"id": "key", "image": "picture", "prompt": "description"}
    columns |= {"question": "asked", "answer": "truth", "answer_type": "kind"}
    images = tmp_path / "pictures"
    images.mkdir()
    offered, dropped = read("table", path=path, images=images, columns=columns)
    assert summary(offered) == [("own-x1", "a.png", ("A red bus.",)), ("own-x2", "b.png", ("A car.",))]
    assert offered[0].image == images / "a.png"
    assert [(raw.question, raw.answer, raw.answer_type) for raw in offered] == [
        ("Which?\nA. bus\nB. car", "A", "mc"),
        ("What is it?", "car", "oe"),
    ]
    assert [(drop.id, drop.reason) for drop in dropped] == [("own-x3", "unknown answer type")]


def test_json_lines_with_options(read, write):
    row = {"image": "a.png", "question": "Which?", "options": ["A. red", "B. blue"], "answer": "red"}
    path = write("own.jsonl", "broken\n" + json.dumps(row) + "\n" + json.dumps(row | {"options": [{}]}) + "\n")
    offered, dropped = read("table", path=path)
    assert [(raw.id, raw.options, raw.answer) for raw in offered] == [("own-1", ("red", "blue"), "red")]
    assert [(drop.id, drop.reason) for drop in dropped] == [
        ("own-0", "entry unreadable"),
        ("own-2", "entry lacks a field"),
    ]


def test_a_parquet_file_with_images_inside(read, tmp_path):
    rows = [{"image": {"bytes": b"x", "path": None}, "prompt": "A cat.", "id": 5}, {"image": None, "id": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    offered, dropped = read("table", path=tmp_path / "own.parquet")
    assert summary(offered) == [("own-5", b"x", ("A cat.",))]
    assert [(drop.id, drop.reason) for drop in dropped] == [("own-1", "no image")]


@pytest.mark.parametrize(
    ("header", "columns", "missing"),
    [
        ("file,prompt", {}, "image"),
        ("image,label", {}, "prompt or question"),
        ("image,prompt", {"question": "asked"}, "question"),
    ],
)
def test_a_table_that_lacks_what_it_needs_is_refused(read, write, header, columns, missing):
    with pytest.raises(CorlError, match=f"lacks columns for {missing}; it has {header.replace(',', ', ')}"):
        read("table", path=write("own.csv", f"{header}\na,b\n"), columns=columns)


def test_a_column_that_does_not_exist_is_refused_when_the_recipe_is_read(read, write):
    with pytest.raises(UsageError, match="pictures is not one of id, image"):
        read("table", path=write("own.csv", "a\n"), columns={"pictures": "a"})


def test_a_zip_where_the_folder_should_be(read, write):
    with pytest.raises(CorlError, match=r"pets\.zip is an archive"):
        read("table", path=write("pets.zip", "PK"))


@pytest.mark.parametrize("cell", ['["red", "dark blue"]', "red | dark blue", "red|dark blue"])
def test_a_cell_of_a_csv_holds_options_as_a_list_or_with_bars(read, write, cell):
    write("pets/a.png", "")
    quoted = cell.replace('"', '""')
    table = write("pets/table.csv", f'image,prompt,question,options,answer\na.png,A cat.,Which?,"{quoted}",red\n')
    offered, dropped = read("table", path=table)
    assert not dropped
    assert offered[0].options == ("red", "dark blue")
