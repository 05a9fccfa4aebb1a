"""A copy of a log that grows: every row once, wherever a kill hits, and errors where a source did not only grow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import filelock
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import llmrec.data.sources.sql as sql_module
import llmrec.data.sources.store as store_module
import llmrec.data.update as update_module
from llmrec.data.cleaning.rows import as_ids
from llmrec.data.load import load_data, open_log
from llmrec.data.sources import open_source
from llmrec.data.sources.files import FileSource
from llmrec.data.sources.store import MANIFEST, read_manifest
from llmrec.data.update import update_store
from llmrec.errors import ConfigError, DataError
from llmrec.settings.data import Data, Privacy

COLUMNS = ("user_id", "item_id", "timestamp")


class Killed(BaseException):
    """What a test does in the place of SIGKILL."""


class Kills:
    """Stands in for ``replacing``: stops before, amid or after a write, and leaves what a kill would leave."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    @contextmanager
    def replacing(self, path):
        temporary = path.parent / f".{path.name}.{os.urandom(4).hex()}.tmp"
        self.step()
        temporary.touch()
        self.step()
        yield temporary
        self.step()
        os.replace(temporary, path)
        self.step()


@pytest.fixture
def small(monkeypatch):
    """Make batches and parts so small that a few rows are several."""
    monkeypatch.setattr(sql_module, "_BATCH", 3)
    monkeypatch.setattr(update_module, "_PART", 4)


def data_of(folder, interactions, **changes):
    return Data.model_validate(
        {
            "interactions": interactions,
            "items": str(folder / "items.csv"),
            "store": str(folder / "store"),
            **changes,
        }
    )


def stored(data):
    """Return the rows of the store, with those that are broken."""
    log = open_log(data)
    batches = list(log.batches(log.columns()))
    assert all(len(batch.frame) == len(batch.rows) for batch in batches)
    rows = [row for batch in batches for row in batch.frame.iter_rows()]
    return rows + [("broken", row.row, row.text) for batch in batches for row in batch.broken]


class Database:
    """A table of a database file that grows by a cursor with many ties."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.db"
        self.run("create table events (user_id text, item_id text, timestamp integer, number integer)")
        self.data = data_of(
            folder, {"location": f"sqlite:///{self.path}", "table": "events", "cursor": "number"}
        )
        self.number = 0

    def run(self, sql, rows=()):
        connection = sqlite3.connect(self.path)
        with connection:
            connection.executemany(sql, rows) if rows else connection.execute(sql)
        connection.close()

    def add(self, steps) -> None:
        """Add a row for each step of the cursor: 0 is a tie, and equal rows are rows."""
        rows = []
        for step in steps:
            self.number += step
            rows.append((f"u{self.number % 3}", f"i{len(rows) % 2}", 1_700_000_000, self.number))
        self.run("insert into events values (?, ?, ?, ?)", rows)

    def rows(self):
        connection = sqlite3.connect(self.path)
        found = connection.execute("select user_id, item_id, timestamp from events").fetchall()
        connection.close()
        return found


class Files:
    """Text files of which new ones begin and the last one grows; it always ends within a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self.count, self.rest = 0, ""

    @property
    def data(self) -> Data:
        return data_of(self.folder, list(map(str, self.paths)))

    def write(self, text: str) -> None:
        with self.paths[-1].open("a") as file:
            file.write(text)

    def line(self) -> str:
        self.count += 1
        return f"u{self.count % 3},i{self.count},1700000000\n"

    def add(self, steps) -> None:
        """Add a row for each step: to the last file for 0, else to a new one."""
        if self.rest:
            self.write(self.rest)
        for step in steps:
            if step or not self.paths:
                self.paths.append(self.folder / f"{len(self.paths):03}.csv")
                self.write("user_id,item_id,timestamp\n")
            self.write(self.line())
        line = self.line()
        self.write(line[:-4])
        self.rest = line[-4:]

    def rows(self):
        lines = [line for path in self.paths for line in path.read_text().splitlines()[1:]]
        return [tuple(line.split(",")) for line in lines[:-1]]


OPERATIONS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 1), min_size=1, max_size=7),  # rows are added
        st.just("update"),
        st.integers(0, 20),  # an update that is killed at this write
    ),
    max_size=8,
)


def killed_update(data, at):
    """Update until the write with this number; return whether there were as many."""
    kills = Kills(at)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store_module, "replacing", kills.replacing)
        try:
            update_store(data)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("kind", [Database, Files])
def test_any_appends_updates_and_kills_give_the_rows_of_the_source(kind, small):
    @settings(max_examples=25, deadline=None)
    @given(OPERATIONS)
    def check(operations):
        with tempfile.TemporaryDirectory() as folder:
            source = kind(Path(folder))
            source.add([1])
            for operation in operations:
                if operation == "update":
                    update_store(source.data)
                    assert Counter(stored(source.data)) == Counter(source.rows())
                elif isinstance(operation, int):
                    killed_update(source.data, operation)
                else:
                    source.add(operation)
            before = len(stored(source.data)) if (source.data.store / MANIFEST).exists() else 0
            done = update_store(source.data)
            assert Counter(stored(source.data)) == Counter(source.rows())
            assert done.total == len(source.rows())
            assert done.added == done.total - before
            assert update_store(source.data).added == 0

    check()


@pytest.mark.parametrize("kind", [Database, Files])
def test_a_kill_at_every_write_loses_and_doubles_nothing(kind, small, tmp_path):
    at, alive = 0, True
    while alive:
        folder = tmp_path / str(at)
        folder.mkdir()
        source = kind(folder)
        source.add([0, 0, 1, 0, 1, 1, 0])
        update_store(source.data)
        source.add([0, 0, 0, 1, 1, 0, 1, 0, 0])
        alive = killed_update(source.data, at)
        if (folder / "store" / MANIFEST).exists():  # what is there is readable, and a beginning
            assert not Counter(stored(source.data)) - Counter(source.rows())
        update_store(source.data)
        assert Counter(stored(source.data)) == Counter(source.rows())
        left = {path.name for path in (folder / "store").iterdir()}
        assert left == {MANIFEST, ".lock", *(part["file"] for part in read_manifest(folder / "store").parts)}
        at += 1
    assert at > 8


def test_a_real_kill_loses_and_doubles_nothing(tmp_path):
    source = Database(tmp_path)
    source.add([1, 0] * 2_000)
    config = tmp_path / "data.json"
    config.write_text(source.data.model_dump_json())
    script = textwrap.dedent(
        """
        import sys, time
        import llmrec.data.sources.sql as sql, llmrec.data.update as update
        from llmrec.settings.data import Data, Privacy
        sql._BATCH, update._PART = 50, 100
        update.update_store(Data.model_validate_json(open(sys.argv[1]).read()), lambda rows: print(rows, flush=True))
        """
    )
    for lines in (1, 3):
        run = subprocess.Popen([sys.executable, "-c", script, str(config)], stdout=subprocess.PIPE)
        for _ in range(lines):
            assert run.stdout.readline()
        time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not Counter(stored(source.data)) - Counter(source.rows())
    assert 0 < len(stored(source.data)) < 4_000
    update_store(source.data)
    assert Counter(stored(source.data)) == Counter(source.rows())


def test_rows_that_tie_with_the_last_one_come_once(tmp_path, small):
    source = Database(tmp_path)
    source.add([5, 0, 0])  # three rows of number 5, two of them equal
    assert update_store(source.data).added == 3
    for ties in range(1, 6):
        source.add([0])
        done = update_store(source.data)
        assert (done.added, done.total) == (1, 3 + ties)
        assert done.watermark == "number 5"
    assert Counter(stored(source.data)) == Counter(source.rows())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "insert into events values ('late', 'i', 1, 2)",
            "4 rows with 'number' before 4, and 3 had been read",
        ),
        ("delete from events where number = 1", "2 rows with 'number' before 4, and 3 had been read"),
        ("delete from events where number = 4", "has lost 1 of the rows"),
        ("update events set item_id = 'other' where number = 4", "has lost 1 of the rows"),
        ("insert into events values ('u', 'i', 1, null)", "1 rows without a value in 'number'"),
        ("alter table events rename column number to other", "has no column 'number'"),
    ],
)
def test_a_table_that_does_more_than_grow_is_an_error(tmp_path, change, said):
    source = Database(tmp_path)
    source.add([1, 1, 1, 1])
    update_store(source.data)
    before = stored(source.data)
    source.run(change)
    source.number = 10
    with pytest.raises(DataError, match=said) as caught:
        update_store(source.data)
    assert "\n" not in str(caught.value)
    assert stored(source.data) == before


def other_place(data, location):
    interactions = data.interactions.model_copy(update={"location": (location,)})
    return data.model_copy(update={"interactions": interactions})


@pytest.mark.parametrize(
    "location", ["sqlite:///{}/other.db", "sqlite:///{}/shop.db?timeout=9", "${{SHOP_URL}}"]
)
def test_a_table_of_the_same_name_elsewhere_is_another_one(tmp_path, monkeypatch, location):
    source = Database(tmp_path)
    source.add([1, 1])
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/shop.db")
    data = other_place(source.data, "${SHOP_URL}") if "$" in location else source.data
    update_store(data)
    before = stored(data)
    shutil.copy(tmp_path / "shop.db", tmp_path / "other.db")
    monkeypatch.setenv("SHOP_URL", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(DataError, match="Expected the same: go back to it"):
        update_store(other_place(data, location.format(tmp_path)))
    assert stored(data) == before


def test_a_store_that_does_not_say_where_its_rows_are_from_goes_on_and_says_it_then(tmp_path):
    source = Database(tmp_path)
    source.add([1, 1])
    update_store(source.data)
    path = source.data.store / MANIFEST
    content = json.loads(path.read_text())
    for name in ("location", "place"):
        del content["state"][name]
    path.write_text(json.dumps(content))
    source.add([1])
    assert update_store(source.data).added == 1
    shutil.copy(tmp_path / "shop.db", tmp_path / "other.db")
    with pytest.raises(DataError, match="Expected the same"):
        update_store(other_place(source.data, f"sqlite:///{tmp_path}/other.db"))


def test_a_trimmed_table_may_lose_old_rows_but_not_gain_any(tmp_path):
    source = Database(tmp_path)
    source.add([1, 1, 1, 1])
    interactions = source.data.interactions.model_copy(update={"trimmed": True})
    data = source.data.model_copy(update={"interactions": interactions})
    update_store(data)
    everything = stored(data)
    source.run("delete from events where number < 3")
    source.add([1])
    assert update_store(data).added == 1
    assert Counter(everything) < Counter(stored(data))
    source.run("delete from events")
    source.add([1])
    assert update_store(data).total == 6
    source.run("insert into events values ('late', 'i', 1, 2)")
    source.run("insert into events values ('late', 'i', 1, 2)")
    for _ in range(5):
        source.run("insert into events values ('late', 'i', 1, 2)")
    with pytest.raises(DataError, match="before 6"):
        update_store(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "000.csv").write_text("user_id,item_id,timestamp\n"), "had .* bytes and has 26"),
        (
            lambda f: (f / "000.csv").write_text((f / "000.csv").read_text().replace("u1", "u9")),
            "first .* bytes .* have changed",
        ),
        (lambda f: (f / "000.csv").unlink(), "000.csv is gone"),
        (lambda f: (f / "000.csv").rename(f / "002.csv"), "is called .*002.csv"),
    ],
)
def test_files_that_do_more_than_grow_are_an_error(tmp_path, change, said):
    source = Files(tmp_path)
    source.add([1, 0, 1, 0])
    update_store(source.data)
    before = stored(source.data)
    change(tmp_path)
    source.paths = sorted(tmp_path.glob("*.csv"))
    with pytest.raises(DataError, match=said):
        update_store(source.data)
    assert stored(source.data) == before


def test_deleted_files_stay_in_the_store_if_the_source_is_trimmed(tmp_path):
    source = Files(tmp_path)
    source.add([1, 0, 1, 0])
    data = data_of(tmp_path, {"location": list(map(str, source.paths)), "trimmed": True})
    update_store(data)
    before = stored(data)
    source.paths.pop(0).unlink()
    data = data_of(tmp_path, {"location": list(map(str, source.paths)), "trimmed": True})
    assert update_store(data).added == 0
    assert stored(data) == before


def test_a_last_row_without_a_line_end_waits(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nu1,i1,17\nu2,i2,17")
    data = data_of(tmp_path, str(path))
    done = update_store(data)
    assert done.added == 1
    assert "Row 2 of" in done.left
    with path.open("a") as file:
        file.write("00000000\n")
    done = update_store(data)
    assert (done.added, done.left) == (1, "")
    assert stored(data)[-1] == ("u2", "i2", "1700000000")


def test_a_half_row_of_any_file_waits_until_nothing_more_comes(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("user_id,item_id,timestamp\nu1,i2,170000")
    second.write_text("user_id,item_id,timestamp\nu2,i1,1700000000\n")
    data = data_of(tmp_path, [str(first), str(second)])
    done = update_store(data)
    assert (done.added, "Row 1 of" in done.left) == (1, True)
    with first.open("a") as file:
        file.write("0500\nu1,i3,1700000600")
    assert update_store(data).added == 1
    assert ("u1", "i2", "1700000500") in stored(data)
    # Nobody goes on with a file behind which there is another: its last row is a row.
    done = update_store(data)
    assert (done.added, done.left) == (1, "")
    assert stored(data)[-1] == ("u1", "i3", "1700000600")
    assert update_store(data).added == 0
    with first.open("a") as file:
        file.write("99\n")
    with pytest.raises(DataError, match="goes on in the middle of its last row"):
        update_store(data)


def test_ids_are_those_of_the_source_whatever_types_its_files_have(tmp_path):
    """A column of whole numbers is one of floats where an id is missing, and floats cannot tell long ids apart."""
    long = 1_234_567_890_123_456_789
    users = [
        pl.Series([long, long + 1]),
        pl.Series([17.0, None]),
        pl.Series([2**63 + 1, 2**63 + 2], dtype=pl.UInt64),
        pl.Series([0.1, 5], dtype=pl.Float32),
        pl.Series([0.1, 5]),
        pl.Series([5, 6], dtype=pl.Int8),
        pl.Series(["007", None]),
        pl.Series([None, None]),
        pl.Series([long + 2, long + 3]),
    ]
    for n, ids in enumerate(users):
        frame = pl.DataFrame({"user_id": ids, "item_id": ["a", "b"], "timestamp": [n, n]})
        frame.write_parquet(tmp_path / f"{n}.parquet")
    data = data_of(tmp_path, str(tmp_path / "*.parquet"))
    update_store(data)
    plain, copied = (
        [text for batch in log.batches(COLUMNS) for text in as_ids(batch.frame["user_id"], ())]
        for log in (open_source(data.interactions, "x"), open_log(data))
    )
    assert copied == plain
    assert str(long) in copied


@pytest.fixture
def growing(tmp_path):
    """Return a function that adds text to a log and updates, and what settings that has."""
    path = tmp_path / "log.csv"
    data = data_of(tmp_path, str(path))

    def add(text):
        with path.open("a", newline="") as file:
            file.write(text)
        return update_store(data)

    return add, data


def as_read_whole(data):
    return stored_rows(open_log(data)) == stored_rows(open_log(data.model_copy(update={"store": None})))


def stored_rows(log):
    rows, broken = [], []
    for batch in log.batches(COLUMNS):
        rows += zip(batch.rows.tolist(), batch.frame.rows(), strict=True)
        broken += [(row.row, row.text) for row in batch.broken]
    return rows, broken


HEADER = "user_id,item_id,timestamp,comment\n"
COMMENTED = 'u1,i1,1,ok\nu2,i2,2,"one\ntwo, ""quoted""\r\n\nu9,i9,9,no\n""\n"\r\nu3,i3\nu4,i4,4,"a"b\nu5,i5,5,"""\n"""\nu6,i6,6,\n'


@pytest.mark.parametrize("cut", range(len(COMMENTED) + 1))
def test_a_file_cut_anywhere_is_taken_as_if_it_had_been_whole(growing, cut):
    add, data = growing
    first = add(HEADER + COMMENTED[:cut])
    assert not Counter(stored(data)) - Counter([*rows_of(COMMENTED)])  # nothing yet that is no row
    second = add(COMMENTED[cut:] + "u7,i7,7,last\n")
    assert as_read_whole(data)
    assert (first.added + second.added, second.total, second.left) == (7, 7, "")


def rows_of(text):
    """Return what there is in COMMENTED, as a store has it."""
    good = [(f"u{n}", f"i{n}", str(n)) for n in (1, 2, 5, 6)]
    return [*good, ("broken", 3, "u3,i3"), ("broken", 4, 'u4,i4,4,"a"b')]


def test_a_stray_quote_holds_rows_back_for_one_update(growing):
    add, data = growing
    done = add(HEADER + 'u1,i1,1,ok\nu2,i2,2,"oops\nu3,i3,3,ok\n')
    assert (done.added, "Row 2 of" in done.left) == (1, True)
    assert add("").added == 0  # nobody has gone on yet
    assert (add("u4,i4,4,ok\n").added, as_read_whole(data)) == (3, True)
    assert (add('u5,i5,5,"half\na').added, add(' row"\n').added) == (0, 1)
    assert (add('u6,i6,6,"stray\nu7,i7,7,ok\n').added, add("u8,i8,8,ok\n").added) == (0, 3)
    assert as_read_whole(data)
    assert [row for row, _ in stored_rows(open_log(data))[1]] == [2, 6]
    # What closes the quote makes one row of several that have been taken.
    with pytest.raises(DataError, match=r"row 6 of .* was taken as broken.*goes on over rows"):
        add('u9,i9,9,"\n')


def test_a_stray_quote_in_a_file_with_another_behind_it_holds_rows_back_for_one_update(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEADER + 'u1,i1,1,"oops\nu2,i2,2,ok\n')
    second.write_text(HEADER + "u3,i3,3,ok\n")
    data = data_of(tmp_path, [str(first), str(second)])
    done = update_store(data)
    assert (done.added, "Row 1 of" in done.left) == (1, True)
    done = update_store(data)
    assert (done.added, done.left) == (2, "")
    assert update_store(data).added == 0


def test_a_quote_that_is_open_while_the_file_is_written_to_is_not_yet_a_stray_one(growing, monkeypatch):
    add, data = growing
    path = Path(data.interactions.location[0])
    batches = FileSource.batches

    def slowly(self, columns):
        with path.open("a") as file:
            file.write("two\n")
        return batches(self, columns)

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "batches", slowly)
        assert add(HEADER + 'u1,i1,1,ok\nu2,i2,2,"one\n').added == 1
    assert (
        update_store(data).added == 0
    )  # the file is as it was when it was read, though larger than when that began
    assert add('three"\n').added == 1
    assert as_read_whole(data)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037", "gb18030"],
)
def test_a_row_with_a_line_end_never_waits_whatever_the_encoding(tmp_path, encoding, end):
    path = tmp_path / "log.csv"
    data = data_of(tmp_path, {"location": str(path), "encoding": encoding})
    rows = [f"u{n},ä{n},{n}{end}" for n in range(1, 5)]
    for count, rest in ((2, ""), (3, ""), (3, "u4,ä"), (4, "")):
        text = f"user_id,item_id,timestamp{end}{''.join(rows[:count])}{rest}"
        path.write_bytes(text.encode(encoding))
        done = update_store(data)
        assert (done.total, bool(done.left)) == (count, bool(rest))
    assert stored(data) == [(f"u{n}", f"ä{n}", str(n)) for n in range(1, 5)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_that_was_taken_without_its_line_end_may_get_it(tmp_path, encoding, end):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    texts = ["user_id,item_id,timestamp\nu1,i1,1\nu2,i2,2", "user_id,item_id,timestamp\nu3,i3,3\n"]
    for path, text in zip((first, second), texts, strict=True):
        path.write_bytes(text.encode(encoding))
    data = data_of(tmp_path, {"location": [str(first), str(second)], "encoding": encoding})
    assert [update_store(data).total for _ in range(3)] == [2, 3, 3]
    for text, total in ((end, 3), ("u4,i4,4\n", 4)):
        with first.open("ab") as file:
            file.write(text.encode(encoding))
        assert update_store(data).total == total
    assert stored(data)[-1] == ("u4", "i4", "4")


def test_a_broken_last_row_with_a_line_end_does_not_wait(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user_id": "u", "item_id": "i", "timestamp": 1}\n{"user_id": \n')
    data = data_of(tmp_path, [str(path)])
    assert [(done.added, done.left) for done in (update_store(data), update_store(data))] == [
        (2, ""),
        (0, ""),
    ]


def test_a_parquet_file_of_any_name_has_no_half_rows(tmp_path):
    path = tmp_path / "log.pq"
    pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]}).write_parquet(path)
    done = update_store(data_of(tmp_path, {"location": str(path), "format": "parquet"}))
    assert (done.added, done.left) == (1, "")


def test_a_parquet_file_is_written_once(tmp_path):
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]})
    frame.write_parquet(tmp_path / "a.parquet")
    data = data_of(tmp_path, [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")][:1])
    assert update_store(data).added == 1
    frame.write_parquet(tmp_path / "b.parquet")
    both = data_of(tmp_path, [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])
    assert update_store(both).added == 1
    pl.concat([frame] * 50).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet"):
        update_store(both)


def items(folder, ids):
    lines = [f"{i},Item {i}" for i in sorted(ids)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *lines]) + "\n")


def test_a_run_on_the_store_is_a_run_on_the_log(tmp_path, small):
    source = Database(tmp_path)
    items(tmp_path, {"i0", "i1"})
    for rows in (4, 2, 6):  # of different numbers: of equal ones those come last that were found last
        source.add([1] * rows)
        update_store(source.data)
    cleaning = {"duplicates": "keep"}
    data = Data.model_validate(source.data.model_dump() | {"cleaning": cleaning})
    one, other = load_data(data), load_data(data.model_copy(update={"store": None}))
    assert one.interactions.frame.equals(other.interactions.frame)
    assert one.ledger.to_list() == other.ledger.to_list()


def test_hashed_users_are_hashed_in_the_store_and_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_SALT", "salt")
    source = Database(tmp_path)
    items(tmp_path, {"i0", "i1"})
    source.add([1, 1, 1, 1])
    data = Data.model_validate(source.data.model_dump() | {"privacy": {"hash_users": True}})
    update_store(data)
    for path in data.store.iterdir():
        assert b"u1" not in path.read_bytes() or path.suffix == ".parquet"
    assert not {user for user, *_ in stored(data)} & {"u0", "u1", "u2"}
    plain = data.model_copy(update={"store": None})
    assert load_data(data).interactions.frame.equals(load_data(plain).interactions.frame)
    monkeypatch.setenv("LLMREC_SALT", "another")
    with pytest.raises(DataError, match="another key"):
        update_store(data)
    with pytest.raises(DataError, match="hash_users"):
        update_store(source.data)


@pytest.mark.parametrize("kind", [Database, Files])
def test_no_digest_in_a_store_of_hashed_users_can_be_tried_out(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("LLMREC_SALT", "salt")
    source = kind(tmp_path)
    source.add([1, 0])
    data = source.data.model_copy(update={"privacy": Privacy(hash_users=True)})
    update_store(source.data.model_copy(update={"store": tmp_path / "plain"}))
    update_store(data)
    plain, hashed = (
        json.loads((folder / MANIFEST).read_text()) for folder in (tmp_path / "plain", data.store)
    )
    without_key = digests_in(plain["state"])
    assert without_key
    assert not without_key & digests_in(hashed["state"])
    assert len(digests_in(hashed["state"])) == len(without_key)
    # A store of before, whose digests have no key, goes on: it says nothing about keys.
    before = hashed["state"]
    for name in ("files", "tied"):
        before |= {name: plain["state"][name]} if name in before else {}
    del before["keyed"]
    (data.store / MANIFEST).write_text(json.dumps(hashed | {"state": before}))
    assert update_store(data).added == 0
    source.add([0, 0])
    done = update_store(data)
    assert (done.added, done.total) == (2 + (kind is Files), len(source.rows()))
    assert not without_key & digests_in(json.loads((data.store / MANIFEST).read_text()))


def digests_in(state):
    return set(re.findall(r'"([0-9a-f]{32,})"', json.dumps(state)))


@pytest.mark.parametrize("hashed", [False, True])
def test_broken_rows_come_once_too_and_without_ids_where_these_are_hashed(tmp_path, monkeypatch, hashed):
    monkeypatch.setenv("LLMREC_SALT", "salt")
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nu1,i1,1700000000\nsecret,i1,1,too,many\nu1,i1,1700000000\n")
    data = data_of(tmp_path, str(path), privacy={"hash_users": hashed})
    assert update_store(data).added == 3
    with path.open("a") as file:
        file.write("secret,2,3,4,5\nu2,i2,1700000001\n")
    assert update_store(data).added == 2
    broken = [row for row in stored(data) if row[0] == "broken"]
    assert [row[1] for row in broken] == [2, 4]
    assert all(("secret" in row[2]) != hashed for row in broken)
    log = open_log(data)
    assert [n for batch in log.batches(COLUMNS) for n in batch.rows] == [1, 3, 5]


def test_what_a_run_is_keyed_by_changes_with_the_rows_alone(tmp_path):
    source = Database(tmp_path)
    source.add([1])
    update_store(source.data)
    before = open_log(source.data).digests()
    update_store(source.data)
    assert open_log(source.data).digests() == before
    source.add([1])
    update_store(source.data)
    assert open_log(source.data).digests() != before


def test_a_reader_sees_what_was_there_when_it_began(tmp_path):
    source = Database(tmp_path)
    source.add([1, 1])
    update_store(source.data)
    log = open_log(source.data)
    source.add([1, 1])
    update_store(source.data)
    assert sum(len(batch.frame) for batch in log.batches(COLUMNS)) == 2


def test_stores_that_cannot_be_used(tmp_path):
    source = Database(tmp_path)
    with pytest.raises(DataError, match="llmrec data update"):
        open_log(source.data)
    with pytest.raises(ConfigError, match=r"data\.store is not set"):
        update_store(source.data.model_copy(update={"store": None}))
    source.add([1, 1])
    update_store(source.data)
    folder = source.data.store
    with filelock.FileLock(folder / ".lock"), pytest.raises(DataError, match="Another process"):
        update_store(source.data)
    other = Data.model_validate(source.data.model_dump() | {"columns": {"rating": "number"}})
    with pytest.raises(DataError, match="its columns are"):
        update_store(other)
    items(tmp_path, {"i0"})
    with pytest.raises(DataError, match="has no column 'number'"):
        load_data(other)
    query = source.data.interactions.model_copy(update={"table": None, "query": "select * from events"})
    with pytest.raises(DataError, match="Expected the same"):
        update_store(source.data.model_copy(update={"interactions": query}))
    part = next(folder.glob("part-*"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match="not what was written"):
        stored(source.data)
    part.write_bytes(content)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-20])
    with pytest.raises(DataError, match="is damaged"):
        stored(source.data)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 300, "cannot be made or written to: File name too long"),
        ("/proc/x/y", "cannot be made or written to: No such file"),
        ("shop.db/store", "is a file, or below one"),
        ("locked", "cannot be made or written to"),
    ],
)
def test_a_store_that_cannot_be_made_is_an_error_with_the_reason(tmp_path, name, said):
    source = Database(tmp_path)
    source.add([1])
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    data = source.data.model_copy(update={"store": tmp_path / name})
    with pytest.raises(ConfigError, match=said) as caught:
        update_store(data)
    assert "\n" not in str(caught.value)
    assert "Expected a folder" in str(caught.value)
    with pytest.raises(DataError, match="llmrec data update"):
        open_log(data)


def test_the_command_says_what_it_did(tmp_path, capsys):
    from llmrec.cli import app

    source = Database(tmp_path)
    source.add([1, 1])
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "name": "shop",
                "output": str(tmp_path / "run"),
                "data": source.data.model_dump(mode="json"),
                "evaluation": {"baseline": "popularity"},
            }
        )
    )
    app(["data", "update", str(config)], standalone_mode=False)
    assert "2 rows added" in (said := capsys.readouterr().out)
    assert "2 in all; read up to number 2" in said
    app(["data", "update", str(config)], standalone_mode=False)
    assert "0 rows added" in capsys.readouterr().out
