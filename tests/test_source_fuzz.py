"""Broken and odd files through the whole of reading: clean data or an error that names what is wrong, and nothing else.

1,000 cases; the environment variable LLMREC_FUZZ=10 runs ten times as many.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import random
import signal
import time
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_cases import packed

from llmrec.data.load import load_data
from llmrec.data.sources import open_source, parquet
from llmrec.errors import LlmrecError
from llmrec.settings import Data

TIMES = int(os.environ.get("LLMREC_FUZZ", "1"))
LIMIT = 60  # seconds for a case, on a machine that does other things too
NAMES = ["user_id", "item_id", "timestamp", "title"]
IDS = [
    "u1", "007", "../../etc/passwd", "'; DROP TABLE users; --", "\x00", "a\x00b", "", " ", "NULL", "-1", "1e999", "9" * 400,
    "=cmd|' /C calc'!A0", "<script>", "%s%n", "{0}", "${HOME}", "日本", "🦊", "\u202e", 'say "hi"', "a,b", "a\tb", "a\nb", "a\r\nb",
    "-9223372036854775808", "18446744073709551616", "nan", "true", "1714061700",
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-32", "utf-7", "shift_jis"]


@contextmanager
def time_limit(seconds: int):
    def stop(*_):
        raise TimeoutError(f"no end after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(log: Path, items: Path, **options) -> str:
    """Load a log and a catalogue; "" or the message of the error. What is left behind is whole."""
    rejects = log.parent / "rejects.parquet"
    data = Data.model_validate(
        {
            "interactions": {"location": str(log), **options},
            "items": str(items),
            "cleaning": {"max_rejected": 1.0},
        }
    )
    with time_limit(LIMIT):
        try:
            loaded = load_data(data, rejects=rejects, notify=lambda line: None)
        except LlmrecError as error:
            message = str(error)
            assert message
            assert "Traceback" not in message
            assert not rejects.exists()
            assert [p.name for p in log.parent.iterdir() if "partial" in p.name] == []
            return message
    steps = [s for s in loaded.ledger.steps if s.table == "interactions"]
    left_out = pl.read_parquet(rejects).filter(pl.col("table") == "interactions")
    assert len(left_out) == sum(s.removed for s in steps)
    assert len(loaded.interactions) == steps[-1].left
    assert set(loaded.interactions.frame["item_id"].cast(pl.String)) <= set(loaded.catalog.item_ids)
    return ""


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    ids = dict.fromkeys([*IDS, *map(str, range(20))])
    path.write_text("".join(json.dumps({"item_id": i, "title": f"T {n}"}) + "\n" for n, i in enumerate(ids)))
    return path


# --- tables of odd values, mistreated


def table(draw, form: str) -> bytes:
    ids, times = st.sampled_from(IDS), st.sampled_from([*["1714061700"] * 30, *IDS])
    rows = [[draw(ids), draw(ids), draw(times)] for _ in range(draw(st.integers(0, 8)))] + [
        ["u", "3", "1714061700"]
    ] * 4
    if form == "parquet":
        out = io.BytesIO()
        pl.DataFrame(rows, schema=NAMES[:3], orient="row").write_parquet(out, row_group_size=3)
        return out.getvalue()
    if form == "jsonl":
        as_text = st.sampled_from([json.dumps, lambda v: json.dumps(v, ensure_ascii=False), str])
        lines = (
            "{" + ",".join(f'"{n}":{draw(as_text)(v)}' for n, v in zip(NAMES, row, strict=False)) + "}"
            for row in rows
        )
        return "\n".join(lines).encode()
    separator = "," if form == "csv" else "\t"
    quoted = draw(
        st.sampled_from([lambda v: v, lambda v: '"' + v.replace('"', '""') + '"', lambda v: f'"{v}'])
    )
    head = [f"{n}:token" if form == "inter" else n for n in NAMES[:3]]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(separator.join(r) for r in [head, *([quoted(v) for v in row] for row in rows)]).encode()


def mistreated(draw, data: bytes) -> bytes:
    """Cut, flip, repeat, insert: what disks, networks and people do."""
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["cut", "flip", "drop", "insert", "repeat", "behead"]))
        if what == "cut":
            data = data[:at]
        elif what == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif what == "drop":
            data = data[:at] + data[at + draw(st.integers(1, 9)) :]
        elif what == "insert":
            odd = [
                b'"',
                b"\x00",
                b"\xff\xfe",
                b"\r",
                b"\n",
                b",",
                b"\xc3",
                b"{",
                b"[" * 5_000,
                b"\xef\xbb\xbf",
                b"PAR1",
            ]
            data = data[:at] + draw(st.sampled_from(odd)) + data[at:]
        elif what == "repeat":
            data = data + data[at:]
        else:
            data = data[at:]
    return data


@st.composite
def cases(draw):
    form = draw(st.sampled_from(["csv", "tsv", "jsonl", "inter", "parquet"]))
    data = table(draw, form)
    options = {}
    if form != "parquet" and draw(st.integers(0, 3)) == 0:
        encoding = draw(st.sampled_from(ENCODINGS))
        data = data.decode("utf-8", "replace").encode(encoding, "replace")
        options["encoding"] = draw(st.sampled_from([encoding, "utf-8", "utf-16"]))
    if form in ("csv", "tsv"):
        options |= draw(
            st.sampled_from(
                [{}, {}, {}, {}, {}, {"quote": None}, {"separator": ";"}, {"quote": "'"}, {"separator": "é"}]
            )
        )
    before, after = draw(st.sampled_from([(True, False), (True, False), (False, True), (False, False)]))
    packing = draw(st.sampled_from(["", "gz", "zst"]))
    data = packed(mistreated(draw, data) if before else data, packing)
    data = mistreated(draw, data) if after else data
    ending = draw(st.sampled_from([*[f".{form}"] * 6, ".csv", ".jsonl"])) + (f".{packing}" if packing else "")
    return data, ending, options


COUNT = {"read": 0, "errors": 0}


@given(cases())
@settings(max_examples=800 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_file_is_read_or_refused(tmp_path_factory, items, case):
    data, ending, options = case
    log = tmp_path_factory.getbasetemp() / "fuzz" / f"log{ending}"
    log.parent.mkdir(exist_ok=True)
    for old in log.parent.iterdir():
        old.unlink()
    log.write_bytes(data)
    message = outcome(log, items, **options)
    COUNT["errors" if message else "read"] += 1


def test_the_cases_were_of_both_kinds():
    """A fuzz that is only refused, or only read, would test little; runs behind the one above."""
    if not sum(COUNT.values()):
        pytest.skip("needs the test before")
    assert min(COUNT.values()) > 0.1 * sum(COUNT.values()), COUNT


# --- a corpus of what has been seen in the wild

TIME = "1714061700"
HEAD = "user_id,item_id,timestamp\n"
GOOD = HEAD + "".join(f"u{n},{n % 20},{1714061700 + n}\n" for n in range(200))


def corpus():
    """Name, content, options, and what comes of it: rows, or a part of the message."""
    yield "plain.csv", GOOD.encode(), {}, 200
    yield "bom.csv", GOOD.encode("utf-8-sig"), {}, 200
    yield "old-mac.csv", GOOD.replace("\n", "\r").encode(), {}, 200
    yield "utf16.csv", GOOD.encode("utf-16"), {"encoding": "utf-16"}, 200
    yield "utf16-unsaid.csv", GOOD.encode("utf-16"), {}, "set encoding to utf-16"
    yield "utf16-odd.csv", GOOD.encode("utf-16")[:-1], {"encoding": "utf-16"}, "not in the encoding"
    yield "latin.csv", (GOOD + f"é,1,{TIME}\n").encode("latin-1"), {}, "not in the encoding utf-8"
    yield "latin-said.csv", (GOOD + f"é,1,{TIME}\n").encode("latin-1"), {"encoding": "latin-1"}, 201
    yield "quotes.csv", (GOOD + f'"a""b,\n""c""",1,{TIME}\n6" nail,1,{TIME}\n').encode(), {}, 202
    yield (
        "stray.csv",
        (GOOD + f'"u,1,{TIME}\n' + GOOD[len(HEAD) :]).encode(),
        {},
        200,
    )  # the others are sent twice
    yield "ragged.csv", (GOOD + f"u,1\nu,1,{TIME},9\n,,\nu,1,{TIME}\n").encode(), {}, 201
    yield "paths.csv", (GOOD + f"../../etc/passwd,1,{TIME}\nx'; DROP TABLE a;--,2,{TIME}\n").encode(), {}, 202
    yield "nul.csv", (GOOD + f"\x00,1,{TIME}\na\x00,1,{TIME}\n").encode(), {}, 202
    yield "nul-only.csv", b"\x00" * 100_000, {}, "no column 'user_id'"
    yield "large-field.csv", (GOOD + f'"{"x" * 10_000_000}",1,{TIME}\n').encode(), {}, 201
    yield (
        "huge-numbers.csv",
        (GOOD + f"u,1,{'9' * 400}\nu,1,-1e308\nu,1,1e400\n{'9' * 400},1,{TIME}\n").encode(),
        {},
        201,
    )
    yield (
        "limits.csv",
        (GOOD + "".join(f"u,1,{s}{2**b}\n" for s in ("-", "") for b in (31, 63, 64))).encode(),
        {},
        None,
    )
    yield "mixed-times.csv", (GOOD + "u,1,2024-04-25\nu,1,tomorrow\n").encode(), {}, 200
    yield "header-only.csv", HEAD.encode(), {}, "The log is empty"
    yield "header-unended.csv", HEAD[:-1].encode(), {}, "The log is empty"
    yield "empty.csv", b"", {}, "it is empty"
    yield "lines.csv", b"\n" * 100_000, {}, "it is empty"
    yield "twice.csv", b"user_id,item_id,timestamp,item_id\na,b,c,d\n", {}, "several columns 'item_id'"
    yield "semicolons.csv", GOOD.replace(",", ";").encode(), {}, "user_id;item_id;timestamp"
    yield "tabs-said.csv", GOOD.replace(",", "\t").encode(), {"separator": "\t"}, 200
    yield "columns.csv", (HEAD[:-1] + ",x" * 3_000 + "\n").encode(), {}, "several columns 'x'"
    yield "whole.csv.gz", packed(GOOD.encode(), "gz"), {}, 200
    yield "members.csv.gz", packed(HEAD.encode(), "gz") + packed(GOOD[len(HEAD) :].encode(), "gz"), {}, 200
    yield "frames.csv.zst", packed(HEAD.encode(), "zst") + packed(GOOD[len(HEAD) :].encode(), "zst"), {}, 200
    for cut in (1, 8, 9, 30, 100):
        for how in ("gz", "zst"):
            yield f"cut{cut}.csv.{how}", packed(GOOD.encode(), how)[:-cut], {}, "cannot be read to its end"
    yield "behind.csv.gz", packed(GOOD.encode(), "gz") + b"garbage", {}, "cannot be read to its end"
    yield "behind.csv.zst", packed(GOOD.encode(), "zst") + b"garbage", {}, "cannot be read to its end"
    yield "plain.csv.gz", GOOD.encode(), {}, "cannot be read to its end"
    yield "line-bomb.csv.gz", gzip.compress(b"a" * (70 << 20), 1), {}, "longer than 64 MiB"
    yield "line-bomb.jsonl.gz", gzip.compress(b'"' * (70 << 20), 1), {}, "longer than 64 MiB"
    yield "rows-bomb.csv.gz", gzip.compress(GOOD.encode() + b"1,2\n" * 100_000, 1), {}, 200
    yield "blank-bomb.csv.gz", gzip.compress(GOOD.encode() + b"\n" * 10_000_000, 1), {}, 200
    record = '{"user_id": "u", "item_id": 1, "timestamp": %s}\n'
    yield (
        "deep.jsonl",
        (record % TIME + record % ("[" * 200_000) + record % ('{"a":' * 9_000)).encode(),
        {},
        1,
    )
    yield (
        "nested.jsonl",
        (record % TIME * 3 + record % '{"$date": 5}' + record % "[1]").encode(),
        {"encoding": "ascii"},
        None,
    )
    yield (
        "numbers.jsonl",
        (record % TIME + record % ("9" * 10_000) + record % "1e999" + record % "-0").encode(),
        {},
        None,
    )
    yield "halves.jsonl", (record % TIME + record.replace('"u"', '"\\ud800"') % TIME).encode(), {}, 1
    yield (
        "array.jsonl",
        f"[{record % TIME}]".encode(),
        {},
        "no JSON object in its first lines|No event is left",
    )
    yield "pretty.jsonl", json.dumps(json.loads(record % TIME), indent=1).encode(), {}, "no JSON object"
    yield "plain.inter", b"user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1714061700.0\n", {}, 1
    yield "untyped.inter", b"user_id\titem_id\ttimestamp\nu\t1\t1\n", {}, "name:type"


@pytest.mark.parametrize("case", list(corpus()), ids=lambda case: case[0])
def test_files_seen_in_the_wild(tmp_path, items, case):
    name, content, options, expected = case
    (tmp_path / name).write_bytes(content)
    message = outcome(tmp_path / name, items, **options)
    if isinstance(expected, str):
        assert any(part in message for part in expected.split("|")), message
        return
    assert message == ""
    if expected is not None:
        data = Data.model_validate(
            {
                "interactions": {"location": str(tmp_path / name), **options},
                "items": str(items),
                "cleaning": {"max_rejected": 1.0},
            }
        )
        assert len(load_data(data, notify=print).interactions) == expected


# --- parquet of any type

N = 5
TYPES = {
    "int8": pa.array(range(N), pa.int8()),
    "uint64": pa.array([2**64 - 1, 0, 1, 2, None], pa.uint64()),
    "int64": pa.array([-(2**63), 2**63 - 1, 1714061700, 0, None]),
    "double": pa.array([1.0, 2.5, float("nan"), float("inf"), 1e300]),
    "half": pa.array([1, 2, 3, 4, None], pa.float64()).cast(pa.float16()),
    "bool": pa.array([True, False, None, True, False]),
    "null": pa.nulls(N),
    "string": pa.array(["a", "", None, "é", "x" * 1_000]),
    "large": pa.array(["1", "2", "3", "4", "5"], pa.large_string()),
    "view": pa.array(["1", "2", "3", "4", "5"], pa.string_view()),
    "binary": pa.array([b"1", b"\xff\xfe", None, b"", b"a"]),
    "fixed": pa.array([b"0123456789abcdef"] * N, pa.binary(16)),
    "date": pa.array([date(2024, 1, 1), date(1, 1, 1), date(9999, 12, 31), None, date(1970, 1, 1)]),
    "seconds": pa.array([1714061700, 0, None, 2**40, -(2**40)], pa.timestamp("s")),
    "zoned": pa.array([1714061700000, 0, None, 1, 2], pa.timestamp("ms", "Europe/Berlin")),
    "nanos": pa.array([2**62, 0, None, 1, -(2**62)], pa.timestamp("ns")),
    "time": pa.array([1, 2, 3, 4, None], pa.time64("us")),
    "duration": pa.array([timedelta(1)] * N),
    "decimal": pa.array([Decimal("17.00"), Decimal("2.50"), None, Decimal("0.00"), Decimal("-1.00")]),
    "decimal256": pa.array([Decimal(10**60)] * N, pa.decimal256(70, 2)),
    "dictionary": pa.array(["a", "b", "a", None, "b"]).dictionary_encode(),
    "list": pa.array([["a"], [], None, ["b", None], ["c"]]),
    "struct": pa.array([{"a": 1}] * N),
    "map": pa.array([[("a", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "datetimes": pa.array([datetime(2024, 4, 25, 16, 15)] * N),
}


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_parquet_of_every_type_in_every_column(tmp_path, items, packing):
    good = {
        "user_id": pa.array(list("abcde")),
        "item_id": pa.array(list("12345")),
        "timestamp": pa.array([1, 2, 3, 4, 5]),
    }
    for name, kind in itertools.product(good, TYPES):
        path = tmp_path / f"log.parquet{packing}"
        out = io.BytesIO()
        try:
            pq.write_table(pa.table({**good, name: TYPES[kind]}), out)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            continue
        path.write_bytes(packed(out.getvalue(), packing[1:]))
        message = outcome(path, items)
        if kind in ("list", "struct", "map", "duration"):
            assert f"The column {name!r} has values of the type" in message
        elif kind in ("string", "large", "view", "dictionary"):
            assert name != "user_id" or message == ""  # items and times are others than there are


def test_a_row_group_of_many_equal_values_is_read_in_steps(tmp_path, items, monkeypatch):
    monkeypatch.setattr(parquet, "_LARGE_GROUP", 1 << 20)
    n = 4_000_000
    log = tmp_path / "log.parquet"
    table = pa.table(
        {c: pa.repeat(pa.scalar(v), n) for c, v in zip(NAMES, ("u", 1, 1714061700), strict=False)}
    )
    pq.write_table(table, log, row_group_size=n)
    del table
    assert log.stat().st_size < 1_000_000
    source = open_source(
        Data.model_validate({"interactions": str(log), "items": str(items)}).interactions, "x"
    )
    began, sizes = time.monotonic(), []
    for batch in source.batches(NAMES[:3]):
        sizes.append(len(batch.frame))
        if len(sizes) == 3:
            break
    assert max(sizes) <= 1 << 20
    assert time.monotonic() - began < LIMIT


def test_random_bytes_under_every_name(tmp_path, items):
    rng = random.Random(0)
    for n, (ending, packing) in enumerate(
        itertools.product([".csv", ".tsv", ".jsonl", ".parquet", ".inter"], ["", ".gz", ".zst"])
    ):
        for size in (1, 100, 70_000):
            path = tmp_path / f"r{n}{ending}{packing}"
            content = rng.randbytes(size)
            path.write_bytes(content)
            assert path.name in outcome(path, items)
            path.write_bytes(packed(content, packing[1:]))
            assert outcome(path, items)
