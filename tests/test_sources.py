"""File sources: the same table in every form, what is broken by an oracle, and errors that say which file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os

import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import packed, read_source

from llmrec.data.sources import delimited, jsonl, open_source, records
from llmrec.data.sources import text as text_module
from llmrec.data.sources.opening import open_growing, pick_columns
from llmrec.errors import DataError
from llmrec.settings.data import SourceSettings

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
ODD = st.text(st.sampled_from('ab,"\n\r é\x00'), max_size=40)


# --- delimited text against plain readings of its definition


def plain_records(text: str, separator: str = ",", quote: str | None = '"'):
    """Yield the fields of each record, or None for a line that begins no record: a state machine, character by character."""
    at = 0
    while at < len(text):
        fields, field, state, i, ok = [], "", "begin", at, True
        while True:
            c = text[i] if i < len(text) else "end"
            ends = c in ("\n", "end") or (c == "\r" and text[i:].lstrip("\r")[:1] in ("\n", ""))
            if state == "quoted":
                if c == "end":
                    ok = False
                    break
                if c == quote and text[i + 1 : i + 2] == quote:
                    field += quote
                    i += 1
                elif c == quote:
                    state = "closed"
                else:
                    field += c
            elif ends:
                fields.append(None if state == "begin" else field)
                break
            elif c == separator:
                fields.append(None if state == "begin" else field)
                field, state = "", "begin"
            elif state == "begin" and c == quote:
                state = "quoted"
            elif state == "closed":
                ok = False
                break
            else:
                field += c
                state = "plain"
            i += 1
        if not ok:
            i = at
        end = text.find("\n", i)
        line_end = len(text) if end < 0 else end
        blank = not text[at:line_end].rstrip("\r")
        if not blank:
            yield fields if ok else None
        at = line_end + 1


@given(st.lists(ODD, max_size=6).map("".join), st.sampled_from([1, 2, 3]), st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_delimited_text_is_read_as_defined_whatever_the_blocks(tmp_path_factory, body, width, block):
    path = tmp_path_factory.mktemp("odd") / "t.csv"
    names = [f"c{i}" for i in range(width)]
    content = ",".join(names) + "\n" + body
    path.write_bytes(content.encode())
    expected = list(plain_records(body))
    good = [(n, f) for n, f in enumerate(expected, 1) if f is not None and len(f) == width]
    for size in (block, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_module, "_BLOCK", size)
            rows, broken = read_source(path, names)
        assert rows == [(n, *f) for n, f in good]
        assert [b.row for b in broken] == sorted({*range(1, len(expected) + 1)} - {n for n, _ in good})


@given(st.lists(ODD, max_size=6).map("".join))
@settings(max_examples=100, deadline=None)
def test_without_quotes_and_with_wide_separators(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("odd") / "t.csv"
    for separator, quote in ((";", None), ("¦", '"'), ("¦", "é"), ("\t", "'")):
        text = body.replace(",", separator)
        path.write_text(f"a{separator}b\n{text}", newline="")
        expected = list(plain_records(text, separator, quote))
        rows, broken = read_source(path, ["a", "b"], separator=separator, quote=quote)
        assert rows == [(n, *f) for n, f in enumerate(expected, 1) if f is not None and len(f) == 2]
        assert len(rows) + len(broken) == len(expected)


def test_a_stray_quote_costs_its_own_row_only(tmp_path):
    lines = [f"u{n},i{n},{n}" for n in range(1, 60_001)]
    lines[9] = '"u10,i10,10'
    lines[50_000] = 'u,"i,1'
    (tmp_path / "t.csv").write_text("user,item,time\n" + "\n".join(lines))
    rows, broken = read_source(tmp_path / "t.csv", ["time", "user"])
    assert [b.row for b in broken] == [10, 50_001]
    assert {b.reason for b in broken} == {"text behind a closing quote", "a quote that is not closed"}
    assert rows == [(n, str(n), f"u{n}") for n in range(1, 60_001) if n not in (10, 50_001)]


def test_quotes_without_end_do_not_take_forever(tmp_path, monkeypatch):
    # Every line ends inside a quoted field, from whichever line one starts.
    (tmp_path / "t.csv").write_text("a,b\n" + 'a","""\n' * 50_000 + 'x"y\n')
    monkeypatch.setattr(records, "_MOST_STEPS", 500_000)
    with pytest.raises(DataError, match=r"quotes do not match in many rows.*set quote to null"):
        read_source(tmp_path / "t.csv", ["a"])


def test_lines_are_limited_and_large_fields_are_not(tmp_path):
    large = "x" * 10_000_000 + '\n"",' * 1_000
    quoted = '"' + large.replace('"', '""') + '"'
    (tmp_path / "t.csv").write_text(f"a,b\n1,{quoted}\n2,y\n", newline="")
    assert read_source(tmp_path / "t.csv", ["b"])[0] == [(1, large), (2, "y")]
    bomb = gzip.compress(b"a,b\n1,2\n" + b"0" * (80 << 20), compresslevel=1)
    (tmp_path / "t.csv.gz").write_bytes(bomb)
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"b": "' + b"0" * (80 << 20), compresslevel=1))
    with pytest.raises(DataError, match=r"t\.csv\.gz', and row 2 is longer than 64 MiB"):
        read_source(tmp_path / "t.csv.gz", ["b"])
    with pytest.raises(DataError, match=r"t\.jsonl\.gz', and row 1 is longer than 64 MiB"):
        read_source(tmp_path / "t.jsonl.gz", ["b"])


# --- JSON lines against texts that are known because the line was put together from them

LITERALS = st.sampled_from(
    ["0", "-0", "1.50", "1e5", "-2E-3", "123456789012345678901234567890", "1e999", "true", "false", "NaN"]
)
NESTED = st.sampled_from(['{"$oid": "a}b"}', "[]", '[1, "x,]", {"a": null}]', "{}"])
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda t: (json.dumps(t), t)),
    st.text(st.characters(codec="utf-8"), max_size=6).map(lambda t: (json.dumps(t, ensure_ascii=False), t)),
    LITERALS.map(lambda t: (t, t)),
    NESTED.map(lambda t: (t, t)),
    st.just(("null", None)),
)
KEYS = st.sampled_from(["a", "b", "user id", "é", "a.b", "[x]*"])
WRONG = st.sampled_from(
    ['{"a": 1', '{"a": 01}', "[]", "7", '{"a": "\t"}', '{"a": "\\q"}', "{a: 1}", '{"a": 1} x',
     '{"a": 1,}', '{"a": .5}', "null", '{"a": +1}', '{"a": ' + "[" * 100_000, '{"a": nan}']
)  # fmt: skip
BLANKS = st.sampled_from(["", " ", "\t "])


@st.composite
def json_lines(draw):
    """Lines, and for each the values of its keys, or None where it is no object."""
    same = draw(st.lists(KEYS, min_size=1, max_size=4, unique=True))
    lines = []
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.integers(0, 4)) == 0:
            lines.append((draw(WRONG), None))
            continue
        keys = draw(st.sampled_from([same, same, draw(st.lists(KEYS, max_size=4))]))
        values = [draw(VALUES) for _ in keys]
        blank = draw(BLANKS)
        members = (f"{json.dumps(k)}{blank}:{blank}{raw}" for k, (raw, _) in zip(keys, values, strict=True))
        line = f"{blank}{{{blank}{f'{blank},{blank}'.join(members)}{blank}}}{blank}"
        lines.append((line, {k: v for k, (_, v) in zip(keys, values, strict=True)}))
    return lines


@given(json_lines(), st.sampled_from(["\n", "\r\n", "\n\n"]), st.sampled_from(["", "gz", "zst"]))
@settings(max_examples=300, deadline=None)
def test_json_lines_are_read_as_written(tmp_path_factory, lines, end, packing):
    path = tmp_path_factory.mktemp("json") / f"t.jsonl{'.' * bool(packing)}{packing}"
    path.write_bytes(packed(end.join(line for line, _ in lines).encode(), packing))
    keys = sorted({key for _, record in lines if record is not None for key in record if key is not None})
    if not keys:
        return
    rows, broken = read_source(path, keys)
    assert rows == [
        (n, *(record.get(k) for k in keys)) for n, (_, record) in enumerate(lines, 1) if record is not None
    ]
    assert [b.row for b in broken] == [n for n, (_, record) in enumerate(lines, 1) if record is None]


def test_half_characters_break_a_row(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"a": "x", "b": "\\ud83d"}\n{"a": "\\uD83D", "b": 1}\n{"a": "\\ud83d\\ude00"}\n'
    )
    rows, broken = read_source(tmp_path / "t.jsonl", ["a"])
    assert rows == [(1, "x"), (3, "😀")]
    assert [(b.row, b.reason[:16]) for b in broken] == [(2, "half a character")]


def test_lines_of_one_form_take_the_pattern_and_others_the_parser(tmp_path, monkeypatch):
    """Both ways are used, and the pattern alone serves the normal case."""
    line = '{{"user_id": "u{0}", "item_id": {0}, "timestamp": null}}\n'
    (tmp_path / "t.jsonl").write_text("".join(line.format(n) for n in range(1_000)))
    columns = ["timestamp", "user_id", "item_id"]
    expected = read_source(tmp_path / "t.jsonl", columns)
    assert expected[0][7] == (8, None, "u7", "7")
    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "_object", None)
        assert read_source(tmp_path / "t.jsonl", columns) == expected
    monkeypatch.setattr(jsonl, "_pattern", lambda line, columns: None)
    assert read_source(tmp_path / "t.jsonl", columns) == expected


# --- every form of a table


def form(frame: pl.DataFrame, name: str) -> tuple[bytes, dict]:
    """Return a table of texts in a format, and the options for reading it."""
    rows, buffer = frame.rows(), io.StringIO()
    if name == "parquet":
        out = io.BytesIO()
        frame.write_parquet(out)
        return out.getvalue(), {}
    if name == "jsonl":
        return "".join(json.dumps(dict(zip(frame.columns, r, strict=True))) + "\n" for r in rows).encode(), {}
    if name == "inter":
        clean = [[(v or "").replace("\t", " ").replace("\n", " ") for v in row] for row in rows]
        lines = ["\t".join(f"{c}:token" for c in frame.columns), *map("\t".join, clean)]
        return "\n".join(lines).encode(), {}
    style = {"delimiter": "," if name == "csv" else "\t", "quoting": csv.QUOTE_ALL, "lineterminator": "\r\n"}
    writer = csv.writer(buffer, **style)
    writer.writerow(frame.columns)
    writer.writerows(rows)
    return buffer.getvalue().encode(), {}


@given(
    st.lists(st.tuples(TEXTS, TEXTS.filter(bool), TEXTS), min_size=1, max_size=20),
    st.sampled_from(["csv", "tsv", "jsonl", "inter", "parquet"]),
    st.sampled_from(["", ".gz", ".zst"]),
    st.sampled_from([None, "utf-8-sig", "utf-16", "utf-16-be"]),
)
@settings(max_examples=200, deadline=None)
def test_every_form_gives_the_table(tmp_path_factory, rows, name, packing, encoding):
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b b": pl.String, "c": pl.String}, orient="row")
    data, options = form(frame, name)
    if encoding is not None and name != "parquet":
        data = data.decode().encode(encoding)
        options["encoding"] = "utf-8" if encoding == "utf-8-sig" else encoding
    path = tmp_path_factory.mktemp("forms") / f"t.{name}{packing}"
    path.write_bytes(packed(data, packing[1:]))
    read, broken = read_source(path, ["c", "a", "b b"], **options)
    expected = [(n, c, a, b) for n, (a, b, c) in enumerate(rows, 1)]
    if name == "inter":  # has no way to write some
        plain = [tuple(v.replace("\t", " ").replace("\n", " ") or None for v in row[1:]) for row in expected]
        expected = [(n, *row) for n, row in enumerate(plain, 1)]
    assert (read, broken) == (expected, [])


def test_old_line_ends_blank_lines_and_latin_1(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\r007,x\r\r8,y")
    assert read_source(path, ["a", "b"])[0] == [(1, "007", "x"), (2, "8", "y")]
    path.write_bytes("\n\na,b\n\n1,é\r\n\r\n2,ü".encode("latin-1"))
    assert read_source(path, ["a", "b"], encoding="latin-1")[0] == [(1, "1", "é"), (2, "2", "ü")]


def test_only_names_of_recbole_s_form_are_taken(tmp_path):
    (tmp_path / "x.item").write_text('item_id:token\ttitle:token_seq\n1\t"Great" Cats\n2\ta\tb\n')
    rows, broken = read_source(tmp_path / "x.item", ["item_id", "title"])
    assert rows == [(1, "1", '"Great" Cats')]
    assert [(b.row, b.reason, b.text) for b in broken] == [(2, "3 fields, expected 2", "2\ta\tb")]
    (tmp_path / "y.item").write_text("item_id\ttitle:text\n1\tx\n")
    with pytest.raises(DataError, match=r"y\.item', and its first row has 'item_id'.*name:type"):
        read_source(tmp_path / "y.item", ["item_id"])


# --- which files


def test_files_are_read_by_name_and_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    for month in ("02", "01", "03"):
        name = tmp_path / "logs" / f"2024-{month}.csv.gz"
        name.write_bytes(packed(f"b,a\n{month},x\n".encode(), "gz"))
    (tmp_path / "logs" / "_SUCCESS").touch()
    (tmp_path / "logs" / "README").touch()
    (tmp_path / "logs" / "latest.csv.gz").symlink_to("2024-03.csv.gz")
    (tmp_path / "logs" / "deeper").mkdir()
    for location in (
        "logs/*.csv.gz",
        "logs",
        ["logs/2024-03.csv.gz", "logs/2024-0[12]*", "./logs/2024-01.csv.gz"],
        "**/*.gz",
        str(tmp_path / "logs"),
    ):
        assert [b for _, b in read_source(location, ["b"])[0]] == ["01", "02", "03"]
    source = open_source(SourceSettings.model_validate("logs/2024-*.csv.gz"), "data.items")
    assert source.name == "logs/2024-*.csv.gz, 3 files"
    assert list(source.digests()) == [f"logs/2024-0{n}.csv.gz" for n in (1, 2, 3)]
    assert source.columns() == ["b", "a"]
    (tmp_path / "odd[1].csv").write_text("b\n1\n")
    assert read_source("odd[1].csv", ["b"])[0] == [(1, "1")]
    (tmp_path / "part-0").write_text("b\n7\n")
    assert read_source("part-0", ["b"], format="csv")[0] == [(1, "7")]
    (tmp_path / "x.txt").write_text('{"b": 7}\n')
    assert read_source("x.txt", ["b"], format="jsonl")[0] == [(1, "7")]


def write_bad_files(folder):
    csv_gz, csv_zst = (packed(b"a,b\n" + b"1,2\n" * 50_000, how) for how in ("gz", "zst"))
    table = io.BytesIO()
    pl.DataFrame({"a": ["x"] * 1_000, "b": range(1_000)}).write_parquet(table)
    twice = pa.table([pa.array([1]), pa.array([2])], names=["b", "b"])
    parquet_twice = io.BytesIO()
    pa.parquet.write_table(twice, parquet_twice)
    files = {
        "cut.csv.gz": csv_gz[:-9],
        "cut.csv.zst": csv_zst[:-9],
        "flipped.csv.gz": csv_gz[:-6] + b"x" + csv_gz[-5:],
        "plain.csv.gz": b"a,b\n1,2\n",
        "gzip.csv": csv_gz,
        "latin.csv": "a,b\n1,é\n".encode("latin-1"),
        "wide.csv": "a,b\n1,2\n".encode("utf-16"),
        "late.jsonl": b'{"b": 1}\n' * 500_000 + b"\xff\n",
        "empty.csv": b"",
        "blank.csv": b"\xef\xbb\xbf \r\n\n",
        "empty.jsonl.gz": packed(b"", "gz"),
        "twice.csv": b"b,a,b\n1,2,3\n",
        "twice.parquet": parquet_twice.getvalue(),
        "open.csv": b'"a,b\n1,2',
        "other.csv": b"a,c\n1,2\n",
        "other.jsonl": b'{"a": 1}\n',
        "other.parquet.gz": packed(parquet_twice.getvalue()[:-5], "gz"),
        "cut.parquet": table.getvalue()[:-20],
        "no.parquet": b"PAR1",
        "no.jsonl": b"a,b\n1,2\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_what_cannot_be_read_whole_is_an_error_that_names_the_file(tmp_path):
    says = {
        "cut.csv.gz": "cannot be read to its end",
        "cut.csv.zst": "cannot be read to its end",
        "flipped.csv.gz": "cannot be read to its end",
        "plain.csv.gz": "cannot be read to its end",
        "gzip.csv": r"encoding utf-8 .*its name should end in \.gz",
        "latin.csv": r"not in the encoding utf-8 \(byte 6 of its text.*latin-1",
        "wide.csv": "set encoding to utf-16",
        "late.jsonl": "byte 4,500,000 of its text",
        "empty.csv": "it is empty",
        "blank.csv": "it is empty",
        "empty.jsonl.gz": "it is empty",
        "twice.csv": "several columns 'b'",
        "twice.parquet": "several columns 'b'",
        "open.csv": "its first row has a quote that is not closed",
        "other.csv": "no column 'b'; it has a, c",
        "other.jsonl": "no column 'b'; it has a",
        "no.jsonl": "no JSON object in its first lines",
    }
    for name in write_bad_files(tmp_path):
        with pytest.raises(DataError, match=says.get(name, "cannot be read")) as caught:
            (
                read_source(tmp_path / name, ["b"]),
                open_source(SourceSettings.model_validate(str(tmp_path / name)), "data.items").columns(),
            )
        assert name in str(caught.value)
        assert "Expected" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("others", [1, 2, 5])
def test_lines_without_any_column_that_is_read_are_rows_too(tmp_path, others):
    (tmp_path / "t.jsonl").write_text('{"kind": "start"}\n' * others + '{"user_id": "u"}\n' * 3)
    rows = read_source(tmp_path / "t.jsonl", ["user_id"])[0]
    assert rows == [(n, None if n <= others else "u") for n in range(1, others + 4)]


@pytest.mark.parametrize("key", ["rating", 'r"ä', "r\\u00e4"])
def test_a_key_of_any_object_is_a_column_however_far_down(tmp_path, monkeypatch, key):
    monkeypatch.setattr(jsonl, "_FIRST", 10)
    name = json.loads(f'"{key}"') if key.startswith("r\\u") else key
    lines = [
        json.dumps({"user_id": f"u{n}", "item_id": "i", "timestamp": n}, ensure_ascii=False)
        for n in range(20)
    ]
    lines[13] = '{"' + (key if "\\u" in key else json.dumps(key, ensure_ascii=False)[1:-1]) + '": 5}'
    lines[15] = f'no JSON, with "{key}"'
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    source = open_source(SourceSettings(location=(str(tmp_path / "t.jsonl"),)), "data.interactions")
    assert name not in source.columns()
    wanted = [("data.columns.user_id", "user_id"), ("data.columns.rating", name)]
    assert pick_columns(source, wanted) == ["user_id", name]
    growing = open_growing(source.source, "data.interactions", "timestamp")
    assert pick_columns(growing, wanted) == ["user_id", name]
    with pytest.raises(DataError, match="no column 'other'"):
        pick_columns(source, [*wanted, ("data.columns.event", "other")])
    rows, broken = read_source(tmp_path / "t.jsonl", [name])
    assert (rows[13], [row.row for row in broken]) == ((14, "5"), [16])


def test_a_file_of_several_is_named(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match=r"2\.csv', and it has no column 'b'"):
        read_source(tmp_path, ["a", "b"])
    (tmp_path / "3.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"different formats: .*2\.csv' is csv|1\.csv' is csv"):
        read_source(str(tmp_path / "*"), ["a", "b"])


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("nowhere.csv", r"no such file \(did you mean 'nowhere\.tsv'\?\)"),
        ("no/where/*.csv", "matches nothing"),
        ("fold*", "matches only folders"),
        ("folder", r"no file ends in .*further down"),
        ("report.pdf", r"does not say what it is.*data\.interactions\.format"),
        ("report.csv.bz2", "does not say what it is"),
        ("pipe", "neither a file nor a folder"),
        ("a\0b*", "cannot be looked up|matches nothing"),
        ("x" * 5_000, "cannot be looked up"),
    ],
)
def test_places_without_files(tmp_path, monkeypatch, location, says):
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere.tsv", "report.pdf", "report.csv.bz2"):
        (tmp_path / name).touch()
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "x.csv").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=says):
        open_source(SourceSettings.model_validate(location), "data.interactions")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path):
    (tmp_path / "t.csv").write_text("a\n1\n")
    (tmp_path / "t.csv").chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        read_source(tmp_path / "t.csv", ["a"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"separator": '"'}, "separator and quote are both"),
        ({"separator": "\n"}, "separator is a line end"),
        ({"encoding": "klingon"}, "no encoding 'klingon'"),
        ({"encoding": "base64"}, "no encoding 'base64'"),
    ],
)
def test_settings_that_make_no_sense(options, says):
    with pytest.raises(ValueError, match=says):
        SourceSettings.model_validate({"location": "x.csv", **options})


def test_both_ways_through_a_parquet_file_are_one(tmp_path, monkeypatch):
    from llmrec.data.sources import parquet

    frame = pl.DataFrame({"a": [f"x{n}" for n in range(5_000)], "b": range(5_000), "c": [[1]] * 5_000})
    frame.write_parquet(tmp_path / "t.parquet", row_group_size=999)
    columns = ["b", "a"]
    expected = [(n + 1, n, f"x{n}") for n in range(5_000)]
    monkeypatch.setattr(parquet, "_BATCH", 1_000)
    assert read_source(tmp_path / "t.parquet", columns)[0] == expected
    monkeypatch.setattr(parquet, "_LARGE_GROUP", 10)
    assert read_source(tmp_path / "t.parquet", columns)[0] == expected


def test_the_fast_parser_is_what_reads_the_normal_case(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text('a,b\n1,"x, y"\n2,z\n3\n')
    expected = read_source(tmp_path / "t.csv", ["b"])
    with monkeypatch.context() as patch:
        only_header = delimited.RecordReader.read

        def read(self, text, row, *, final, most=None):
            assert row == 0
            return only_header(self, text, row, final=final, most=1)

        patch.setattr(delimited.RecordReader, "read", read)
        assert read_source(tmp_path / "t.csv", ["b"]) == expected
    monkeypatch.setattr(delimited, "regular_records", lambda *args, **more: None)
    assert read_source(tmp_path / "t.csv", ["b"]) == expected
    assert expected[0] == [(1, "x, y"), (2, "z")]


def test_a_scheme_that_is_not_read_tells_no_password(monkeypatch):
    monkeypatch.setenv("SHOP_URL", "sftp://me:hunter2@host/log.csv")
    with pytest.raises(DataError, match="sftp:// is not read") as error:
        open_source(SourceSettings.model_validate("${SHOP_URL}"), "data.interactions")
    assert "hunter2" not in str(error.value)
