"""Endpoints, against a real server on this machine: all pages or an error, and secrets to nobody else."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import pytest

import llmrec.data.sources.http_client as client_module
from llmrec.data.load import open_log
from llmrec.data.sources import open_source
from llmrec.data.sources.values import digest_of
from llmrec.data.update import update_store
from llmrec.errors import ConfigError, DataError
from llmrec.settings.data import Data, Privacy, SourceSettings

COLUMNS = ["user_id", "item_id", "timestamp"]


class Server:
    """Answers with pages of its events; ``faults`` are called first, one per request, and may answer themselves."""

    def __init__(self) -> None:
        self.events = [
            {"user_id": f"u{n % 3}", "item_id": n, "timestamp": 1_700_000_000 + n} for n in range(25)
        ]
        self.size = 10
        self.faults = []
        self.asked = []
        self.headers = []
        self.wrap = lambda events, following: {"data": events, "next_cursor": following}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked.append(self.path)
                outer.headers.append(dict(self.headers))
                if outer.faults and (fault := outer.faults.pop(0)) is not None:
                    fault(self)
                else:
                    self.json(outer.page(parse_qs(urlsplit(self.path).query)))

            def json(self, content, status=200, **headers):
                self.raw(json.dumps(content).encode(), status, **headers)

            def raw(self, body, status=200, length=None, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)
                if length is not None:
                    self.close_connection = True

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/events"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def page(self, query):
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.size
        return self.wrap(self.events[start:end], str(end) if end < len(self.events) else None)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def other():
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Return the pauses that were made, none of which is waited for."""
    made = []
    monkeypatch.setattr(client_module, "_sleep", made.append)
    return made


def source(url, **paging):
    settings = SourceSettings.model_validate({"location": url, "paging": paging})
    return open_source(settings, "data.interactions")


def read(opened, columns=COLUMNS):
    return [row for batch in opened.batches(columns) for row in batch.frame.iter_rows()]


def expected(server):
    return [tuple(event.values()) for event in server.events]


def test_all_pages_are_read_in_their_order(server):
    opened = source(server.url, parameters={"limit": "10"})
    assert opened.columns() == COLUMNS
    batches = list(opened.batches(COLUMNS))
    assert [len(batch.frame) for batch in batches] == [10, 10, 5]
    assert [n for batch in batches for n in batch.rows] == list(range(1, 26))
    assert {batch.origin for batch in batches} == {server.url}
    assert read(opened) == expected(server)
    assert server.asked[1:4] == [f"/v1/events?limit=10{more}" for more in ("", "&cursor=10", "&cursor=20")]


def test_pages_are_asked_for_as_they_are_needed(server):
    batches = source(server.url).batches(COLUMNS)
    next(batches)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("wrap", "paging"),
    [
        (lambda e, n: {"data": e, "next_cursor": n}, {}),
        (
            lambda e, n: {"result": {"events": e}, "page": {"next": n or ""}},
            {"records": "result.events", "next": "page.next"},
        ),
        (lambda e, n: {"a.b": e, "next_cursor": n and int(n)}, {"records": "a.b"}),
        (lambda e, n: {"data": e, "next_cursor": n and f"/v1/events?cursor={n}"}, {}),
        (lambda e, n: {"data": e, "next_cursor": n and f"http://HOST/v1/events?cursor={n}"}, {}),
        (lambda e, n: {"data": e} if n is None else {"data": e, "next_cursor": n}, {}),
    ],
)
def test_forms_of_paging(server, wrap, paging):
    host = urlsplit(server.url).netloc
    server.wrap = lambda e, n: json.loads(json.dumps(wrap(e, n)).replace("HOST", host))
    assert read(source(server.url, **paging)) == expected(server)


def test_links_in_the_header_are_followed(server):
    pages = [(server.events[:20], {"Link": '</v1/events?cursor=20>; rel="next"'}), (server.events[20:], {})]
    server.faults = [lambda request, page=page: request.json(page[0], **page[1]) for page in pages]
    assert read(source(server.url, records="")) == expected(server)


def test_nested_fields_missing_fields_and_types(server):
    server.events = [
        {"user": {"id": 2**60 + 1}, "item": "007", "at": "2024-01-31T10:00:00Z", "stars": 4},
        {"user": {"id": 17}, "item": "x", "at": None, "stars": 4.5},
        {"user": None, "item": "y"},
        "no object",
    ]
    opened = source(server.url)
    assert opened.columns() == ["user.id", "item", "at", "stars", "user"]
    (batch,) = opened.batches(["user.id", "item", "at", "stars"])
    assert list(batch.frame.iter_rows()) == [
        (2**60 + 1, "007", "2024-01-31T10:00:00Z", 4.0),
        (17, "x", None, 4.5),
        (None, "y", None, None),
    ]
    assert [(row.row, row.text) for row in batch.broken] == [(4, "no object")]
    assert list(batch.rows) == [1, 2, 3]


def test_half_characters_break_a_record_whatever_it_is(server, tmp_path):
    half = "u\ud83d"
    nested = {"user_id": "u", "item_id": {"a": [half]}, "timestamp": 1}
    server.events = [*server.events[:2], nested | {"item_id": half}, nested, half, server.events[2]]
    server.events[1] |= {"elsewhere": half}  # in no column that is read
    data = store_of(tmp_path, server)
    assert update_store(data).added == 6
    assert stored(data) == [tuple(event.values())[:3] for event in (*server.events[:2], server.events[-1])]
    (batch,) = open_log(data).batches(COLUMNS)
    assert [row.row for row in batch.broken] == [3, 4, 5]
    assert [row.reason.partition(" (")[0] for row in batch.broken] == ["half a character"] * 2 + [
        "a str, expected an object"
    ]
    server.wrap = lambda events, following: {"data": [1], "next": half, half: [half]}
    with pytest.raises(DataError, match=r"set paging\.next") as caught:
        read(source(server.url))
    str(caught.value).encode()


def fail(status, **headers):
    return lambda request: request.json({"error": "no"}, status, **headers)


def drop(request):
    request.close_connection = True


def truncate(request):
    request.raw(b'{"data": [', length=1000)


def broken_gzip(request):
    request.raw(b"no gzip", Content_Encoding="gzip")


@pytest.mark.parametrize("fault", [fail(500), fail(503), fail(429), drop, truncate, broken_gzip])
def test_what_may_pass_is_tried_again_with_growing_pauses(server, pauses, fault):
    server.faults = [None, fault, fault, fault]
    assert read(source(server.url)) == expected(server)
    assert pauses == [0.5, 1.0, 2.0]
    server.faults = [None, *[fault] * 3]
    with pytest.raises(DataError, match="after 3 attempts"):
        read(source(server.url, retries=2))


def test_an_endpoint_says_how_long_to_wait(server, pauses):
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    server.faults = [fail(429, Retry_After="7"), fail(503, Retry_After=date), fail(503, Retry_After="soon")]
    assert read(source(server.url)) == expected(server)
    assert pauses[0] == 7
    assert 20 < pauses[1] <= 30
    assert pauses[2] == 2.0
    server.faults = [fail(429, Retry_After="86400")]
    with pytest.raises(DataError, match="asked again after 86,400 s"):
        read(source(server.url))


def test_slow_answers_are_given_up(server):
    def silent(request):
        time.sleep(0.4)
        drop(request)

    def dripping(request):
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(8):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.1)
        drop(request)

    server.faults = [silent]
    with pytest.raises(DataError, match=r"no answer within 0\.2 s, after 1 attempts"):
        read(source(server.url, timeout=0.2, retries=0))
    server.faults = [dripping]
    with pytest.raises(DataError, match=r"not whole within 0\.3 s"):
        read(source(server.url, timeout=0.3, retries=0))


def answer(content, status=200, **headers):
    return lambda request: request.json(content, status, **headers)


@pytest.mark.parametrize(
    ("fault", "paging", "said"),
    [
        (fail(401), {}, "status 401.*check paging.headers"),
        (fail(404), {}, "status 404.*check the URL"),
        (fail(304), {}, "status 304"),
        (lambda r: r.raw(b"<html>Log in</html>"), {}, "no JSON.*begins '<html>Log in"),
        (lambda r: r.raw(b'{"data": ['), {}, "no JSON"),
        (lambda r: r.raw(b"\xff\xfe\x00\xd8"), {}, "no JSON"),
        (lambda r: r.raw(b"[" * 100_000), {}, "no JSON"),
        (lambda r: r.raw(b""), {}, "no JSON"),
        (answer({"date": []}), {}, r"did you mean 'date'\?\), where there is nothing"),
        (answer({"data": {"a": 1}}), {}, "where there is a dict"),
        (answer([1]), {}, "a list"),
        (answer(7), {}, "a int"),
        (answer({"data": [], "next_cursor": {"a": 1}}), {}, "has .* as paging.next"),
        (answer({"data": [1], "has_more": True, "cursor": "x"}), {}, "says has_more: True.*set paging.next"),
        (answer({"data": [1], "links": {"next": "/x"}}), {}, "says links.next: '/x'"),
        (lambda r: r.raw(b'"' + b"x" * 50_000 + b'"'), {"max_page_mb": 0.02}, "more than 0.02 MB"),
    ],
)
def test_pages_that_are_none_are_errors_at_once(server, pauses, fault, paging, said):
    server.faults = [fault]
    with pytest.raises(DataError, match=said) as caught:
        read(source(server.url, **paging))
    assert "\n" not in str(caught.value)
    assert "Expected" in str(caught.value) or "Ask for" in str(caught.value)
    assert pauses == []


def test_cursors_that_repeat_are_an_error(server):
    server.wrap = lambda events, following: {"data": server.events[:2], "next_cursor": "same"}
    with pytest.raises(DataError, match="'same' of a page that was read already"):
        read(source(server.url.replace("events", "events?a=1"), parameter="after"))
    # An endpoint that answers with the same cursor and nothing has no more for now.
    pages = [{"data": server.events, "next_cursor": "end"}, {"data": [], "next_cursor": "end"}]
    server.faults = [answer(page) for page in pages]
    assert read(source(server.url)) == expected(server)


SECRET = "t0p s3cret/"


def test_secrets_go_to_the_endpoint_alone(server, other, monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    paging = {"headers": {"Authorization": "Bearer ${SHOP_TOKEN}", "X-Api-Key": "${SHOP_TOKEN}"}}
    elsewhere = other.url.replace("/v1/events", "/other?cursor=20")
    server.faults = [
        lambda r: r.raw(b"", 302, Location="/v1/events?cursor=0"),
        None,
        lambda r: r.raw(b"", 307, Location=elsewhere),
    ]
    assert read(source(server.url, **paging)) == expected(server)[:10] + expected(other)[20:]
    assert all(headers["Authorization"] == f"Bearer {SECRET}" for headers in server.headers)
    assert other.asked == ["/other?cursor=20"]
    assert not {"Authorization", "X-Api-Key"} & other.headers[0].keys()
    # The same of a next page elsewhere.
    server.faults = [answer({"data": server.events[:20], "next_cursor": elsewhere})]
    assert read(source(server.url, **paging)) == expected(server)
    assert not {"Authorization", "X-Api-Key"} & other.headers[1].keys()
    server.faults = [lambda r: r.raw(b"", 302, Location="/v1/events")] * 9
    with pytest.raises(DataError, match="more than 5 redirects"):
        read(source(server.url, **paging))


def test_messages_have_no_secrets(server, monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    url = server.url.replace("://", "://reader:${SHOP_TOKEN}@") + "?key=${SHOP_TOKEN}"
    opened = source(url)
    assert opened.name == server.url
    server.faults = [lambda r: r.json(f"the key {SECRET} is wrong", 403)]
    with pytest.raises(DataError, match="status 403") as caught:
        read(opened)
    assert "s3cret" not in str(caught.value)
    assert server.headers[0]["Authorization"] == "Basic cmVhZGVyOnQwcCBzM2NyZXQv"
    assert (
        server.asked[0] == "/v1/events?key=t0p+s3cret%2F"
        or server.asked[0] == "/v1/events?key=t0p%20s3cret%2F"
    )
    monkeypatch.delenv("SHOP_TOKEN")
    with pytest.raises(ConfigError, match="SHOP_TOKEN"):
        source(url)


ECHOED = {
    "as it is": lambda secret: secret.replace(" ", "+"),
    "quoted": lambda secret: quote(secret, safe=""),
    "quoted in small letters": lambda secret: re.sub(
        "%..", lambda m: m.group().lower(), quote(secret, safe="")
    ),
}


@pytest.mark.parametrize("spelt", ECHOED)
@pytest.mark.parametrize("whole", [False, True])
def test_a_key_that_is_echoed_is_in_no_file_and_may_change(server, tmp_path, monkeypatch, spelt, whole):
    def wrap(events, following):
        key = ECHOED[spelt](parse_qs(urlsplit(server.asked[-1]).query)["key"][0])
        return {"data": events, "next_cursor": following and f"{server.url}?key={key}&cursor={following}"}

    def set_key(key):
        monkeypatch.setenv("SHOP_KEY", key)
        monkeypatch.setenv("SHOP_URL", f"{server.url}?key={quote(key)}")

    server.wrap = wrap
    set_key("t0p s3cret/ü")
    location = "${SHOP_URL}" if whole else server.url + "?key=${SHOP_KEY}"
    data = store_of(tmp_path, server).model_copy(
        update={"interactions": SourceSettings(location=(location,))}
    )
    assert update_store(data).added == 25
    texts = [path.read_bytes() for path in data.store.iterdir()]
    assert not [text for text in texts if b"s3cret" in text or b"t0p" in text]
    server.events.append({"user_id": "new", "item_id": 1, "timestamp": 1})
    set_key("an0ther&key")
    server.asked.clear()
    assert update_store(data).added == 1
    asked = [parse_qs(urlsplit(path).query) for path in server.asked]
    assert asked == [{"key": ["an0ther&key"]}, {"key": ["an0ther&key"], "cursor": ["20"]}]
    assert stored(data) == expected(server)


def test_a_store_with_the_key_in_its_cursor_goes_on_and_loses_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", SECRET)
    server.wrap = lambda events, n: {
        "data": events,
        "next_cursor": n and f"{server.url}?key=t0p+s3cret%2F&cursor={n}",
    }
    location = server.url + "?key=${SHOP_KEY}"
    data = store_of(tmp_path, server).model_copy(
        update={"interactions": SourceSettings(location=(location,))}
    )
    update_store(data)
    manifest = data.store / "store.json"
    content = json.loads(manifest.read_text())
    del content["state"]["location"]
    content["state"]["cursor"] = f"{server.url}?key=t0p+s3cret%2F&cursor=20"
    manifest.write_text(json.dumps(content))
    server.events.append({"user_id": "new", "item_id": 1, "timestamp": 1})
    assert update_store(data).added == 1
    assert "s3cret" not in manifest.read_text()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"data": [], "next_cursor": {"url": SECRET}},
        {"data": [], "next": f"/events?key={quote(SECRET)}"},
        {"data": [1], "next_cursor": f"/v1/events?key={quote(SECRET)}"},  # of itself
        {"data": [1], "next_cursor": SECRET + "\ud83d"},
        {SECRET: []},
        f"{' ' * 92}{SECRET}",
    ],
)
def test_messages_about_answers_have_no_secrets(server, monkeypatch, content, whole):
    monkeypatch.setenv("SHOP_KEY", SECRET)
    monkeypatch.setenv("SHOP_URL", f"{server.url}?key={quote(SECRET)}")
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    server.faults = [lambda request: request.raw(body)] * 3
    with pytest.raises(DataError) as caught:
        read(source("${SHOP_URL}" if whole else server.url + "?key=${SHOP_KEY}"))
    text = str(caught.value)
    assert "..." in text
    assert "t0p" not in text
    assert "s3cret" not in text


def test_endpoints_that_are_not_there():
    with pytest.raises(DataError, match="after 1 attempts"):
        read(source("http://127.0.0.1:1/events", retries=0))
    with pytest.raises(DataError, match="no URL"):
        source("http://host:port/events")


def store_of(tmp_path, server):
    return Data.model_validate(
        {"interactions": server.url, "items": "items.csv", "store": str(tmp_path / "store")}
    )


def stored(data):
    return [row for batch in open_log(data).batches(COLUMNS) for row in batch.frame.iter_rows()]


@pytest.mark.parametrize("first", [0, 1, 9, 10, 11, 25])
def test_new_events_come_once(server, tmp_path, first):
    everything, server.events = server.events, server.events[:first]
    data = store_of(tmp_path, server)
    if not first:
        with pytest.raises(DataError, match="has no column"):  # nothing yet that could say its columns
            update_store(data)
    else:
        assert update_store(data).added == first
    for more in (*range(first + 1, 26, 4), 25):
        server.events = everything[:more]
        update_store(data)
        assert stored(data) == expected(server)
    server.asked.clear()
    assert update_store(data).added == 0
    assert server.asked == ["/v1/events", "/v1/events?cursor=20"]  # the columns, and the last page


def test_a_failure_between_pages_loses_and_doubles_nothing(server, tmp_path, monkeypatch):
    import llmrec.data.update as update_module

    monkeypatch.setattr(update_module, "_PART", 1)
    data = store_of(tmp_path, server)
    server.faults = [None, None, None, fail(404)]
    with pytest.raises(DataError, match="404"):
        update_store(data)
    assert stored(data) == expected(server)[:20]
    assert update_store(data).added == 5
    assert Counter(stored(data)) == Counter(expected(server))


def test_an_endpoint_that_does_more_than_grow_is_an_error(server, tmp_path):
    data = store_of(tmp_path, server)
    update_store(data)
    server.events[-1]["item_id"] = "other"
    with pytest.raises(DataError, match="has changed: it had 5 records"):
        update_store(data)
    server.events = server.events[:-1]
    with pytest.raises(DataError, match="has changed: it had 5 records and has 4"):
        update_store(data)
    with pytest.raises(DataError, match="Expected the same"):
        update_store(
            store_of(tmp_path, server).model_copy(
                update={"interactions": SourceSettings(location=(server.url + "2",))}
            )
        )


def test_a_query_of_the_url_is_a_part_of_what_is_read(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", SECRET)

    def of(location):
        return store_of(tmp_path, server).model_copy(
            update={
                "interactions": SourceSettings(
                    location=(server.url.replace("://", location[0]) + location[1],)
                )
            }
        )

    data = of(("://reader:${SHOP_TOKEN}@", "?shop=a"))
    update_store(data)
    manifest = tmp_path / "store" / "store.json"
    before = manifest.read_text()
    with pytest.raises(DataError, match=r"shop=b.*shop=a.*Expected the same") as caught:
        update_store(of(("://reader:${SHOP_TOKEN}@", "?shop=b")))
    assert "s3cret" not in str(caught.value)
    assert manifest.read_text() == before
    server.events.append({"user_id": "new", "item_id": 1, "timestamp": 1})
    assert (
        update_store(of(("://other:${SHOP_TOKEN}@", "?shop=a"))).added == 1
    )  # another user is no other source
    # A store of before does not have the location, and goes on.
    content = json.loads(manifest.read_text())
    del content["state"]["location"]
    manifest.write_text(json.dumps(content))
    assert update_store(data).added == 0
    with pytest.raises(DataError, match="Expected the same"):
        update_store(of(("://", "?shop=b")))


def test_the_digest_of_a_page_cannot_be_tried_out_where_users_are_hashed(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_SALT", "salt")
    data = store_of(tmp_path, server).model_copy(update={"privacy": Privacy(hash_users=True)})
    manifest = data.store / "store.json"
    update_store(data)
    content = json.loads(manifest.read_text())
    without_key = digest_of(server.events[20:])
    assert content["state"]["digest"] != without_key
    # A store of before goes on.
    content["state"] |= {"digest": without_key}
    del content["state"]["keyed"]
    manifest.write_text(json.dumps(content))
    server.events.append({"user_id": "new", "item_id": 1, "timestamp": 1})
    assert update_store(data).added == 1
    assert json.loads(manifest.read_text())["state"]["digest"] != digest_of(server.events[20:])
    server.events[-1]["item_id"] = 2
    with pytest.raises(DataError, match="has changed"):
        update_store(data)
