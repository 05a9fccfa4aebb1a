"""The cache: an entry is whole or absent, found before fetched, and never silently wrong."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from llmrec import cache, places
from llmrec.errors import AssetError

GOOD = b"the file as its home has it"
SHA = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMREC_OFFLINE", raising=False)


class Place:
    """A place that has ``content``, or fails with ``error``, and counts how often it was asked."""

    def __init__(self, name: str, content: bytes = GOOD, error: Exception | None = None) -> None:
        self.name, self.content, self.error, self.asked = name, content, error, 0

    def download(self, folder: Path) -> Path:
        self.asked += 1
        if self.error:
            raise self.error
        (folder / "file.zip").write_bytes(self.content)
        return folder / "file.zip"

    def source(self, convert: Callable[[Path, Path], None] | None = None) -> cache.Source:
        return cache.Source(self.name, (self.file(),), convert or _convert)

    def file(self, digest: str | None = f"sha256:{SHA}") -> cache.File:
        return cache.File(f"{self.name}.zip", digest, self.download, f"ask {self.name}")


def _convert(file: Path, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_bytes(file.read_bytes().upper())
    (folder / "sub" / "b.txt").write_text("b")


def _entry(*places: Place, said: list[str] | None = None) -> Path:
    return cache.entry(
        "things/one",
        "1",
        [p.source() for p in places],
        licence="MIT",
        notify=(said if said is not None else []).append,
    )


def test_it_is_fetched_once_and_says_so_in_one_line() -> None:
    home, wheel, said = Place("home"), Place("wheel"), list[str]()
    folder = _entry(home, wheel, said=said)
    assert (folder / "a.txt").read_bytes() == GOOD.upper()
    assert said[-1] == "things/one: from home; licence: MIT"
    again = list[str]()
    assert _entry(home, wheel, said=again) == folder
    assert again == ["things/one: from the cache, first taken from home; licence: MIT"]
    assert (home.asked, wheel.asked) == (1, 0)


@pytest.mark.parametrize(
    "home",
    [
        Place("home", error=places.Unavailable("closed")),
        Place("home", error=OSError("no route")),
        Place("home", content=GOOD[:-1]),
    ],
    ids=["unavailable", "no network", "truncated download"],
)
def test_the_next_place_is_tried(home: Place) -> None:
    said = list[str]()
    assert (_entry(home, Place("wheel"), said=said) / "a.txt").read_bytes() == GOOD.upper()
    assert said[-1] == "things/one: from wheel; licence: MIT"


def test_the_error_names_every_place_with_its_reason_and_what_to_do() -> None:
    wrong = Place("wheel", content=b"another file")
    with pytest.raises(AssetError) as caught:
        _entry(Place("home", error=OSError("no\nroute")), wrong)
    message = str(caught.value)
    downloads = cache.cache_dir() / "downloads"
    for part in (
        "things/one-1 (absent)",
        f"{downloads / 'home.zip'} (not there)",
        f"{downloads / 'wheel.zip'} (not there)",
        "home (no route)",
        hashlib.sha256(b"another file").hexdigest(),
        f"expected {SHA}",
        f"put it into {downloads}",
        "home.zip (ask home) or wheel.zip (ask wheel)",
        "LLMREC_CACHE",
    ):
        assert part in message
    assert "\n" not in message
    assert not list(cache.cache_dir().rglob("*build*"))


def test_a_file_put_into_downloads_is_used_before_any_network_and_kept() -> None:
    put = cache.cache_dir() / "downloads" / "wheel.zip"
    put.parent.mkdir(parents=True)
    put.write_bytes(GOOD)
    home, said = Place("home"), list[str]()
    _entry(home, Place("wheel"), said=said)
    assert home.asked == 0
    assert said[-1] == "things/one: from wheel.zip in the cache's downloads folder; licence: MIT"
    assert put.exists()


def test_a_wrong_file_in_downloads_is_named_and_not_used() -> None:
    put = cache.cache_dir() / "downloads" / "home.zip"
    put.parent.mkdir(parents=True)
    put.write_bytes(b"half")
    with pytest.raises(AssetError, match=r"home\.zip \(SHA-256 is \w+, expected"):
        _entry(Place("home", error=OSError("no route")))
    assert (_entry(Place("home")) / "a.txt").read_bytes() == GOOD.upper()


def _flip(folder: Path) -> None:
    content = bytearray((folder / "a.txt").read_bytes())
    content[3] ^= 1
    (folder / "a.txt").write_bytes(content)


def _truncate(folder: Path) -> None:
    os.truncate(folder / "a.txt", 3)


def _remove(folder: Path) -> None:
    (folder / "sub" / "b.txt").unlink()


def _stray(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _no_manifest(folder: Path) -> None:
    (folder / cache.MANIFEST).unlink()


def _half_a_manifest(folder: Path) -> None:
    os.truncate(folder / cache.MANIFEST, 40)


def _empty_manifest(folder: Path) -> None:
    (folder / cache.MANIFEST).write_text("[]")


DAMAGES = [_flip, _truncate, _remove, _stray, _no_manifest, _half_a_manifest, _empty_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_rebuilt(damage: Callable[[Path], None]) -> None:
    home, said = Place("home"), list[str]()
    folder = _entry(home)
    whole = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    damage(folder)
    assert _entry(home, said=said) == folder
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == whole
    assert home.asked == 2
    assert "damaged" in said[0]


def test_damage_that_cannot_be_repaired_is_an_error_and_leaves_the_entry() -> None:
    folder = _entry(Place("home"))
    _flip(folder)
    with pytest.raises(AssetError, match=r"the content of a\.txt has changed"):
        _entry(Place("home", error=OSError("no route")))
    assert folder.exists()


def test_a_system_file_is_no_damage() -> None:
    home = Place("home")
    (_entry(home) / ".DS_Store").write_text("x")
    _entry(home)
    assert home.asked == 1


def test_an_interrupted_conversion_leaves_nothing() -> None:
    def interrupted(file: Path, folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("things/one", "1", [Place("home").source(interrupted)], licence="MIT")
    assert [p.name for p in (cache.cache_dir() / "things").iterdir() if p.is_dir()] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from llmrec import cache

def convert(file, folder):
    (folder / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

def download(folder):
    (folder / "f").write_bytes({content!r})
    return folder / "f"

files = (cache.File("x", "sha256:{sha}", download, ""),)
cache.entry("things/one", "1", [cache.Source("x", files, convert)], licence="MIT")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_a_killed_build_leaves_no_entry_and_the_next_one_cleans_up() -> None:
    code = KILLED.format(content=GOOD, sha=SHA)
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    things = cache.cache_dir() / "things"
    assert len(list(things.glob(".one-1.build-*"))) == 1
    assert not (things / "one-1").exists()
    assert (_entry(Place("home")) / "a.txt").read_bytes() == GOOD.upper()
    assert not list(things.glob(".one-1.build-*"))


def _slow_build(log: str, results: multiprocessing.Queue[tuple[bytes, list[str]]]) -> None:
    def convert(file: Path, folder: Path) -> None:
        with open(log, "a") as out:
            out.write("converted\n")
        time.sleep(0.5)
        _convert(file, folder)

    said = list[str]()
    folder = cache.entry(
        "things/one", "1", [Place("home").source(convert)], licence="MIT", notify=said.append
    )
    results.put(((folder / "a.txt").read_bytes(), said))


def test_two_processes_at_once_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    log = tmp_path / "log"
    workers = [context.Process(target=_slow_build, args=(str(log), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert [content for content, _ in got] == [GOOD.upper()] * 2
    assert log.read_text() == "converted\n"
    assert sorted("the cache" in said[-1] for _, said in got) == [False, True]


def test_a_warm_cache_opens_no_socket_and_writes_nothing(no_network: Callable[[], None]) -> None:
    folder = _entry(Place("home"))
    before = {p: p.stat().st_mtime_ns for p in cache.cache_dir().rglob("*")}

    no_network()
    assert _entry(Place("home", error=AssertionError("asked"))) == folder
    assert {p: p.stat().st_mtime_ns for p in cache.cache_dir().rglob("*")} == before


def test_offline_no_place_on_the_network_is_tried(
    monkeypatch: pytest.MonkeyPatch, no_network: Callable[[], None], tmp_path: Path
) -> None:
    monkeypatch.setenv("LLMREC_OFFLINE", "1")

    no_network()
    downloads = [
        places.from_url("https://example.invalid/x.zip"),
        places.from_hub("owner/no-such-repository", "0" * 40, "x.gguf"),
        places.from_pip("no-such-package==1"),
    ]
    for download in downloads:
        with pytest.raises(places.Unavailable, match="LLMREC_OFFLINE is set"):
            download(tmp_path)


def test_places_that_do_not_exist_fail_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Names under .invalid are never resolved, so this holds with and without a network.
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    started = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT011  (whatever the resolver says)
        places.from_url("https://example.invalid/x.zip")(tmp_path)
    with pytest.raises(places.Unavailable):
        places.from_hub("owner/no-such-repository", "0" * 40, "x.gguf")(tmp_path)
    with pytest.raises(places.Unavailable, match=r"^pip: .*no-such-package"):
        places.from_pip("no-such-package==1")(tmp_path)
    assert time.monotonic() - started < 30


def test_a_missing_pip_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(places.Unavailable, match="has no pip; install it"):
        places.from_pip("anything==1")(tmp_path)


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"cannot be made: .*LLMREC_CACHE"):
        _entry(Place("home"))


def test_another_version_is_another_entry() -> None:
    home = Place("home")
    one = cache.entry("things/one", "1", [home.source()], licence="MIT")
    two = cache.entry("things/one", "2", [home.source()], licence="MIT")
    assert one != two
    assert one.exists()
    assert home.asked == 2


# --- files whose digest nobody states, and sources of several files ----------------------------------


def _pair(ratings: Place, titles: Place, said: list[str] | None = None, version: str = "1") -> Path:
    def convert(first: Path, second: Path, folder: Path) -> list[str]:
        (folder / "both").write_bytes(first.read_bytes() + second.read_bytes())
        return ["2 rows have no id and are left out"]

    source = cache.Source("the home", (ratings.file(), titles.file(None)), convert)
    return cache.entry(
        "things/pair", version, [source], licence="MIT", notify=(said if said is not None else []).append
    )


def test_all_files_of_a_source_are_needed_and_each_is_taken_from_where_it_is() -> None:
    put = cache.cache_dir() / "downloads" / "ratings.zip"
    put.parent.mkdir(parents=True)
    put.write_bytes(GOOD)
    ratings, titles, said = Place("ratings"), Place("titles", b"T"), list[str]()
    folder = _pair(ratings, titles, said)
    assert (folder / "both").read_bytes() == GOOD + b"T"
    assert (ratings.asked, titles.asked) == (0, 1)
    assert said[-1] == (
        "things/pair: from the home, with ratings.zip in the cache's downloads folder; licence: MIT"
    )


def test_what_a_conversion_has_to_say_is_said_whenever_the_entry_is_used() -> None:
    for _ in range(2):
        said = list[str]()
        _pair(Place("ratings"), Place("titles"), said)
        assert said[-2] == "things/pair: 2 rows have no id and are left out"


def test_the_error_asks_for_the_files_that_are_missing_only() -> None:
    gone = places.Unavailable("closed")
    with pytest.raises(AssetError) as caught:
        _pair(Place("ratings", error=gone), Place("titles", error=gone))
    message = str(caught.value)
    downloads = cache.cache_dir() / "downloads"
    assert "the home, ratings.zip (closed)" in message
    assert f"get these files on another machine, put them into {downloads} under these names" in message
    assert "run again: ratings.zip (ask ratings) and titles.zip (ask titles). " in message
    downloads.mkdir(parents=True)
    (downloads / "ratings.zip").write_bytes(GOOD)
    with pytest.raises(AssetError, match=r"get this file .*: titles\.zip \(ask titles\)\. A cache"):
        _pair(Place("ratings", error=gone), Place("titles", error=gone))


def test_a_file_without_a_digest_is_trusted_once_and_no_other_is_afterwards() -> None:
    folder = _pair(Place("ratings"), Place("titles", b"first"))
    record = cache.cache_dir() / "things" / "pair.sha256"
    # What sha256sum writes, so that it can be checked with it; files with a digest of their own are not in it.
    assert record.read_text() == f"{hashlib.sha256(b'first').hexdigest()}  titles.zip\n"
    assert cache.manifest(folder)["taken"] == {
        "ratings.zip": SHA,
        "titles.zip": hashlib.sha256(b"first").hexdigest(),
    }
    for version in ("1", "2"):  # the entry damaged, or another form of it: both are made from the same file
        (folder / "both").write_bytes(b"damaged")
        with pytest.raises(AssetError, match=r"expected .*when it was first used; to trust .* delete .*pair"):
            _pair(Place("ratings"), Place("titles", b"second"), version=version)
        again = _pair(Place("ratings"), Place("titles", b"first"), version=version)
        assert (again / "both").read_bytes() == GOOD + b"first"
    record.unlink()
    (folder / "both").write_bytes(b"damaged")
    assert (_pair(Place("ratings"), Place("titles", b"second")) / "both").read_bytes() == GOOD + b"second"


def test_a_file_that_cannot_be_converted_is_not_trusted() -> None:
    def broken(file: Path, folder: Path) -> None:
        raise AssetError("half a file")

    source = cache.Source("home", (Place("home", b"half").file(None),), broken)
    with pytest.raises(AssetError, match="half a file"):
        cache.entry("things/half", "1", [source], licence="MIT")
    assert not (cache.cache_dir() / "things" / "half.sha256").exists()


def test_an_md5_is_compared_where_that_is_what_is_published() -> None:
    right, wrong = (f"md5:{hashlib.md5(content).hexdigest()}" for content in (GOOD, b"other"))
    entry = cache.entry(
        "things/md5", "1", [cache.Source("home", (Place("home").file(right),), _convert)], licence="MIT"
    )
    assert cache.manifest(entry)["taken"] == {"home.zip": SHA}
    with pytest.raises(AssetError, match=r"home \(MD5 is \w{32}, expected \w{32}\)"):
        cache.entry(
            "things/bad", "1", [cache.Source("home", (Place("home").file(wrong),), _convert)], licence="MIT"
        )


class _Answer(io.BytesIO):
    """An answer of a server that promised ten bytes."""

    headers: ClassVar[dict[str, str]] = {"Content-Length": "10"}


def test_a_download_that_breaks_off_is_not_taken_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(url: str, timeout: float) -> _Answer:
        return _Answer(b"0123456789")

    def half(url: str, timeout: float) -> _Answer:
        return _Answer(b"01234")

    monkeypatch.setattr("urllib.request.urlopen", whole)
    assert places.from_url("https://x.invalid/a.gz")(tmp_path).read_bytes() == b"0123456789"
    monkeypatch.setattr("urllib.request.urlopen", half)
    with pytest.raises(places.Unavailable, match="ended after 5 of 10 bytes"):
        places.from_url("https://x.invalid/a.gz")(tmp_path)


def test_files_can_be_read_by_whoever_may_read_the_cache() -> None:
    def private(file: Path, folder: Path) -> None:
        (folder / "model").write_text("x")
        (folder / "model").chmod(0o600)

    folder = cache.entry("things/one", "1", [Place("home").source(private)], licence="MIT")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()]
    assert modes == [modes[0]] * 2


def test_the_manifest_holds_the_origin_and_each_file(tmp_path: Path) -> None:
    about = cache.manifest(_entry(Place("home")))
    assert (about["source"], about["licence"]) == ("home", "MIT")
    assert about["files"]["sub/b.txt"] == {"size": 1, "sha256": hashlib.sha256(b"b").hexdigest()}
    assert json.dumps(about)


def test_the_default_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLMREC_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.cache_dir() == tmp_path / "llmrec"
    assert cache.cache_dir().is_absolute()
