import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError
from corl_cli.data.sources import files

PAGE = "https://example.org/data"
ENTRIES = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.text())))


@given(entries=ENTRIES, indent=st.sampled_from([None, 1]), block=st.integers(8, 64))
def test_a_json_array_is_streamed_as_json_reads_it(tmp_path_factory, entries, indent, block):
    path = tmp_path_factory.mktemp("array") / "data.json"
    path.write_text(json.dumps(entries, indent=indent, ensure_ascii=False).encode("utf-8", "replace").decode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)  # windows shorter than the entries
        assert list(files.records(path, PAGE)) == json.loads(path.read_text())


def test_entries_of_an_array_come_before_its_end_is_read(write):
    path = write("data.json", '[{"a": 1}, {"a": 2}, {"a"')
    found = files.records(path, PAGE)
    assert [next(found), next(found)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(CorlError, match="cut short or damaged"):
        next(found)


def test_a_bad_line_is_none_and_the_others_stay(write):
    path = write("data.jsonl", '\ufeff{"a": 1}\n\nnot json\n{"a": 2}\n{"a": ')
    assert list(files.records(path, PAGE)) == [{"a": 1}, None, {"a": 2}, None]


def test_a_row_with_more_fields_than_the_header_is_none(write):
    path = write("data.csv", 'image,prompt\na.png,"two, three\nlines"\nb.png,one,more\n')
    assert list(files.records(path, PAGE)) == [{"image": "a.png", "prompt": "two, three\nlines"}, None]


def test_parquet_rows_come_in_order_over_files(tmp_path):
    for part in range(2):
        rows = [{"number": part * 50 + row} for row in range(50)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"train-0000{part}.parquet", row_group_size=20)
    paths = files.parquet_files(tmp_path, "train", PAGE)
    assert [row["number"] for row in files.rows(paths, PAGE)] == list(range(100))


def test_splits_are_told_by_the_name_of_the_file_or_of_its_folder(tmp_path):
    table = pa.Table.from_pylist([{"a": 1}])
    for name in ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "default/test/0000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
    names = [path.relative_to(tmp_path).as_posix() for path in files.parquet_files(tmp_path, "test", PAGE)]
    assert names == ["data/test-00000-of-00001.parquet", "default/test/0000.parquet"]
    with pytest.raises(CorlError, match=r"no parquet files of the split validation; its files are named 0000\.parquet"):
        files.parquet_files(tmp_path, "validation", PAGE)


@pytest.mark.parametrize("name", ["questions.json", "data.parquet"])
def test_a_file_cut_short_is_told_from_its_end_with_the_page_to_get_it_from(write, name):
    path = write(name, '[{"question": "what is')
    with pytest.raises(CorlError, match=f"{name} cannot be read: it is cut short") as caught:
        files.annotation(path, PAGE)
    assert PAGE in str(caught.value.hint)


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"a": 2}', ' \n[{"a": [1]}', '\ufeff[{"a": 1}', '{"a": [1, 2]', "", "["]
)
def test_json_must_end_as_it_begins(write, content):
    with pytest.raises(CorlError, match=r"a\.json cannot be read: it is cut short"):
        files.annotation(write("a.json", content), PAGE)


@pytest.mark.parametrize("content", ['[{"a": 1}]\n', '\ufeff {"a": {}}', '{"a": 1}\n{"a": 2}\n'])
def test_json_that_ends_as_it_begins_is_whole(write, content):
    path = write("a.json", content)
    assert files.annotation(path, PAGE) == path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_an_archive_is_told_by_what_it_begins_with(tmp_path, name):
    for content in (b"PK\x03\x04...}", b"\x1f\x8b\x08...}"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorlError, match="is an archive where an annotation file is expected"):
            files.annotation(tmp_path / name, PAGE)


QUESTIONS = {"info": {"year": 2017}, "questions": [{"question": "What?"}] * 2}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_an_object_where_a_list_is_expected_is_refused(write, name, indent):
    path = write(name, json.dumps(QUESTIONS, indent=indent))
    with pytest.raises(CorlError, match="one JSON object where a list of entries is expected") as caught:
        files.listing(path, PAGE)
    assert "jq .questions" in str(caught.value.hint)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([QUESTIONS], indent=2),
        '{"image": "a.jpg", "conversations": [{"from": "human"}]}',
        '{"image": "a.jpg", "answers": [{"answer": "x"}], "captions": ["a"]}\n',
        f"{json.dumps(QUESTIONS)}\n{json.dumps(QUESTIONS)}\n",
        '{"a": broken}\n{"a": 2}\n',
        '{"a": 1}\nbroken}',
    ],
)
def test_entries_of_many_kinds_are_a_list(write, content):
    path = write("a.json", content)
    assert files.listing(path, PAGE) == path


def test_a_missing_file_names_itself_and_the_page(tmp_path):
    with pytest.raises(CorlError, match=r"captions\.json is missing") as caught:
        files.annotation(tmp_path / "captions.json", PAGE)
    assert PAGE in str(caught.value.hint)


def test_a_damaged_document_is_one_clear_line(write):
    with pytest.raises(CorlError, match="is not JSON"):
        files.document(write("a.json", '{"images": [}'), PAGE)
    with pytest.raises(CorlError, match="list where an object is expected"):
        files.mapping(write("b.json", []), PAGE)


def test_bytes_that_are_no_utf8_are_one_clear_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff\xfe"}\n')
    with pytest.raises(CorlError, match=r"a\.jsonl cannot be read"):
        list(files.records(tmp_path / "a.jsonl", PAGE))


def test_a_parquet_file_damaged_inside_is_one_clear_line(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with pytest.raises(CorlError, match=r"a\.parquet cannot be read"):
        list(files.records(files.annotation(path, PAGE), PAGE))


@pytest.mark.parametrize("named", ["train2017", "train2017.zip"])
def test_an_archive_where_a_folder_is_expected_says_how_to_unpack_it(write, tmp_path, named):
    write("train2017.zip", "PK")
    with pytest.raises(CorlError, match=r"train2017\.zip is an archive where a folder is expected") as caught:
        files.folder(tmp_path / named, PAGE)
    assert "unzip" in str(caught.value.hint)


def test_a_folder_that_is_missing_or_a_file(write, tmp_path):
    with pytest.raises(CorlError, match=r"The folder .*images is missing"):
        files.folder(tmp_path / "images", PAGE)
    with pytest.raises(CorlError, match=r"a\.txt is a file where a folder is expected"):
        files.folder(write("a.txt", ""), PAGE)
    with pytest.raises(CorlError, match="is a folder where a file is expected"):
        files.annotation(tmp_path, PAGE)
