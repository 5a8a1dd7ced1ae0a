"""Text files: what breaks the CSV format is refused with its line, and no row is ever lost in silence."""

import csv
import io
import tracemalloc
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.data.reading import read_columns
from securepfl.data.wanted import Wanted
from securepfl.errors import DataError

PRIVATE = "4711"


def file_of(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "north.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(path: Path, wanted: Wanted | None = None) -> dict[str, list[str | None]]:
    contents = read_columns(path, wanted)
    return {name: cells.values.to_pylist() for name, cells in contents.columns.items()}


def refusal(path: Path, wanted: Wanted | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_columns(path, wanted)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert PRIVATE not in message
    return message.removeprefix(f"{path}: ")


def test_quotes_a_byte_order_mark_and_blank_lines_are_read(tmp_path: Path):
    path = file_of(tmp_path, '\ufeffname,age\r\n"Doe, J",5\n\n"a ""b""\r\nc", 6 \n\n')
    assert columns(path) == {"name": ["Doe, J", 'a "b"\r\nc'], "age": ["5", "6"]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('1,"4711\n2,x\n3,y\n', "line 2 opens a quote that is never closed"),
        ('1,x\n2,"4711"y\n', "line 3 opens a quote, and text follows where it closes"),
        ('1,x\n2, "4711"\n', "line 3 has a quote inside a field"),
        ('1,47"11\n', "line 2 has a quote inside a field"),
        ('1,"4711\n2,x\n3,y"\n', "line 2 opens a quote that closes 2 line(s) later, and each line looks like a row"),
        ("1,x\n4711\n", "line 3 has 1 fields, the first line 2"),
        ("1,4711,x\n2,x\n", "line 2 has 3 fields, the first line 2"),
        ('1,"two\nlines, 3"\n4711\n', "line 4 has 1 fields"),
        ("1,x\n2,\0\n", "line 3 holds a NUL byte"),
        ("1,x\r2,y\n", "line 2 has a carriage return without a line feed"),
    ],
)
def test_what_a_strict_reader_refuses_is_refused_with_its_line(tmp_path: Path, body: str, words: str):
    assert refusal(file_of(tmp_path, f"a,note\n{body}")).startswith(words)


def test_a_quoted_line_feed_is_legal(tmp_path: Path):
    path = file_of(tmp_path, 'a,note,b\n1,"one\n\nthree, four, five\n",2\n3,"",4\n')
    assert columns(path) == {"a": ["1", "3"], "note": ["one\n\nthree, four, five", None], "b": ["2", "4"]}


fields = st.text(st.sampled_from('a1 ,;"\n\r\té\u0308'), max_size=8)


@settings(max_examples=300)
@given(st.lists(st.tuples(fields, fields, fields), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_what_a_strict_writer_writes_is_read_as_it_was_or_refused(tmp_path_factory, rows, separator: str):
    path = tmp_path_factory.mktemp("csv") / "north.csv"
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("h1", "h2", "h3"), *rows])
    path.write_bytes(text.getvalue().encode())
    try:
        read = columns(path, Wanted(needed=("h1", "h2", "h3")))
    except DataError as error:
        assert "each line looks like a row" in str(error)
        return
    spelled = [[unicodedata.normalize("NFC", field).strip() or None for field in row] for row in rows]
    assert list(zip(*read.values(), strict=True)) == [tuple(row) for row in spelled]


@settings(max_examples=300)
@given(st.text(st.sampled_from('a,"\n'), max_size=24))
def test_a_text_is_read_as_the_standard_library_reads_it_or_refused(tmp_path_factory, body: str):
    path = tmp_path_factory.mktemp("csv") / "north.csv"
    path.write_text("x,y\n" + body, newline="")
    try:
        read = list(zip(*columns(path).values(), strict=True))
    except DataError:
        return
    expected = [row for row in csv.reader(io.StringIO(body, newline=""), strict=True) if row]
    assert read == [tuple(field.strip() or None for field in row) for row in expected]


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_the_separator_is_the_one_that_gives_the_declared_columns(tmp_path: Path, separator: str):
    path = file_of(tmp_path, separator.join("ayx") + "\n" + separator.join("123") + "\n")
    assert columns(path, Wanted(needed=("a", "y"))) == {"a": ["1"], "y": ["2"], "x": ["3"]}


def test_another_separator_is_declared_or_refused(tmp_path: Path):
    path = file_of(tmp_path, "a:y\n1:0\n")
    assert "not separated by commas or semicolons or tabs or pipes" in refusal(path, Wanted(needed=("a", "y")))
    assert columns(path, Wanted(needed=("a", "y"), separator=":")) == {"a": ["1"], "y": ["0"]}
    assert "not separated by semicolons" in refusal(path, Wanted(needed=("a", "y"), separator=";"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_first_line_of_excel_names_the_separator(tmp_path: Path, separator: str):
    path = file_of(tmp_path, f"sep={separator}\r\na{separator}y\r\n1{separator}0\r\n")
    assert columns(path, Wanted(needed=("a", "y"))) == {"a": ["1"], "y": ["0"]}
    assert "contradicts [data] separator" in refusal(path, Wanted(needed=("a", "y"), separator="|"))


def test_without_a_header_the_number_of_columns_tells_the_separator(tmp_path: Path):
    layouts = (("b", "a", "y"),)
    assert columns(file_of(tmp_path, "50;27,5;1\n"), Wanted(layouts=layouts)) == {
        "b": ["50"],
        "a": ["27,5"],
        "y": ["1"],
    }
    assert "could be separated by commas or semicolons" in refusal(
        file_of(tmp_path, "4711,0;1\n"), Wanted(layouts=(("a", "y"),))
    )
    assert "has 3 columns, but [data] columns names 2" in refusal(
        file_of(tmp_path, "50;4711;1\n"), Wanted(layouts=(("a", "y"),))
    )


def test_a_row_is_not_taken_for_a_header(tmp_path: Path):
    assert "first line holds numbers" in refusal(file_of(tmp_path, "50;27,4711;1\n51;2;0\n"))


def test_a_header_that_holds_the_declared_names_may_hold_years_too(tmp_path: Path):
    wanted = Wanted(columns=frozenset("ay"), needed=("a", "y"))
    assert columns(file_of(tmp_path, "2019,2020,a,y\n5,6,1,0\n"), wanted) == {"a": ["1"], "y": ["0"]}
    assert "first line holds numbers" in refusal(file_of(tmp_path, "0,1,4711\n"), Wanted(needed=("0", "1")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read_by_its_mark(tmp_path: Path, encoding: str):
    path = file_of(tmp_path, "a\ty\r\nK\u00f6ln\t1\r\n".encode(encoding))
    assert columns(path, Wanted(needed=("a", "y"))) == {"a": ["K\u00f6ln"], "y": ["1"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,y\nK\u00f6ln,1\n".encode("latin-1"), "is not text in UTF-8"),
        ("a,y\n1,2\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"PK\x03\x04" + bytes(50), "is an Excel workbook or a ZIP archive"),
        (b"\x1f\x8b" + bytes(50), "is a gzip file"),
        (b"\xd0\xcf\x11\xe0" + bytes(50), "is an old Excel workbook"),
        (b"BZh91AY&SY" + bytes(50), "is a bzip2 file"),
        (b"ARROW1" + bytes(50), "is a Feather or Arrow file"),
        (b"", "has no rows"),
        (b"a,y\n\n", "has no rows"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, words: str):
    assert refusal(file_of(tmp_path, content)).startswith(words)


def test_a_dropped_column_of_long_letters_fills_no_memory(tmp_path: Path):
    path = tmp_path / "north.csv"
    with path.open("w") as file:
        file.write("a,letter,y\n")
        letter = "x, y\n" * 28_000
        file.writelines(f'{row},"{letter}",1\n' for row in range(300))  # 42 MB
    tracemalloc.start()
    read = columns(path, Wanted(columns=frozenset(("a", "y")), needed=("a", "y")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == {"a": [str(row) for row in range(300)], "y": ["1"] * 300}
    assert peak < 100 << 20


def test_rows_of_many_blocks_are_all_there_and_faults_have_the_files_line(tmp_path: Path):
    path = tmp_path / "north.csv"
    lines = [f'{row},"{"x" * 90}\n{row}"' for row in range(100_000)]
    path.write_text("\n".join(["a,note", *lines]) + "\n")
    assert columns(path, Wanted(columns=frozenset("a")))["a"] == [str(row) for row in range(100_000)]
    path.write_text("\n".join(["a,note", *lines, "1,2,3"]) + "\n")
    assert refusal(path).startswith("line 200002 has 3 fields")
