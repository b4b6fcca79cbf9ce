"""Downloads from a real server on this machine that cuts, lies, stalls and fails on demand."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vaelens.data import mnist
from vaelens.data.download import cache_folder, fetch
from vaelens.errors import DataError

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Mirror:
    """A server's behaviour, and the requests that it saw: (path, Range header)."""

    files: dict[str, bytes]
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the connection drops, one per request
    status: int = 200
    lie_about_start: int = 0
    chunked: bool = False
    stall: float = 0.0
    stall_after: int = 0
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        mirror = self.mirror
        self.close_connection = True
        mirror.seen.append((self.path, self.headers["Range"]))
        body = mirror.files.get(self.path.lstrip("/"))
        if mirror.status != 200 or body is None:
            self.send_error(404 if body is None else mirror.status)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(wanted[1]) if wanted and mirror.ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rest = body[start:]
        self.send_response(206 if wanted and mirror.ranges else 200)
        if wanted and mirror.ranges:
            said = start + mirror.lie_about_start
            self.send_header("Content-Range", f"bytes {said}-{len(body) - 1}/{len(body)}")
        self.send_header(*(("Transfer-Encoding", "chunked") if mirror.chunked else ("Content-Length", str(len(rest)))))
        self.end_headers()
        rest = rest[: mirror.cut_after.pop(0)] if mirror.cut_after else rest
        if mirror.chunked:
            rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)
        self.wfile.write(rest[: mirror.stall_after] if mirror.stall else rest)
        if mirror.stall:
            self.wfile.flush()
            time.sleep(mirror.stall)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:  # a client that hung up, on purpose
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def start() -> Iterator[object]:
    servers = []

    def serve(**behaviour: object) -> Mirror:
        mirror = Mirror(**({"files": {"data.gz": CONTENT}} | behaviour))  # type: ignore[arg-type]
        server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"mirror": mirror}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/data.gz"
        return mirror

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data.gz"


def part_of(target: Path) -> Path:
    return target.with_name("data.gz.part")


def get(target: Path, *mirrors: Mirror, **options: object) -> Path:
    return fetch("data.gz", [mirror.url for mirror in mirrors], target, MD5, timeout=5, **options)  # type: ignore[arg-type]


def only_the_target(target: Path) -> bool:
    return target.read_bytes() == CONTENT and list(target.parent.iterdir()) == [target]


def test_a_sha256_is_a_checksum_as_well(start, target: Path) -> None:
    mirror = start()
    with pytest.raises(DataError, match="wrong checksum \\(not sha256 0000"):
        fetch("data.gz", [mirror.url], target, "0" * 64)
    assert fetch("data.gz", [mirror.url], target, hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT


def test_plain_download_reports_progress(start, target: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    assert get(target, start(), progress=lambda *step: steps.append(step)) == target
    assert only_the_target(target)
    assert steps[-1] == ("data.gz", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in steps] == sorted({done for _, done, _ in steps})


def test_what_is_there_is_not_fetched_again(start, target: Path) -> None:
    mirror = start()
    get(target, mirror)
    get(target, mirror)
    assert len(mirror.seen) == 1


def test_a_file_with_another_checksum_is_replaced(start, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"something else")
    get(target, start())
    assert only_the_target(target)


def test_a_cut_download_goes_on_where_it_stopped(start, target: Path) -> None:
    mirror = start(cut_after=[100_000, 50_000])
    get(target, mirror, size=len(CONTENT))
    assert only_the_target(target)
    assert [asked for _, asked in mirror.seen] == [None, "bytes=100000-", "bytes=150000-"]


def test_another_mirror_goes_on_where_the_first_stopped(start, target: Path) -> None:
    first, second = start(cut_after=[100_000, 0]), start()
    get(target, first, second)
    assert only_the_target(target)
    assert second.seen == [("/data.gz", "bytes=100000-")]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(start, target: Path) -> None:
    with pytest.raises(DataError, match="cut after 70,000 of 512,000 bytes"):
        get(target, start(cut_after=[70_000, 0]))
    assert part_of(target).read_bytes() == CONTENT[:70_000]
    assert not target.exists()
    mirror = start()
    get(target, mirror)
    assert only_the_target(target)
    assert mirror.seen == [("/data.gz", "bytes=70000-")]


def test_a_mirror_that_never_finishes_is_given_up(start, target: Path) -> None:
    mirror = start(cut_after=[10] * 100)
    with pytest.raises(DataError, match="cut after 50 of 512,000 bytes, and so 5 times"):
        get(target, mirror)
    assert len(mirror.seen) == 5


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_that_ignores_ranges_is_read_from_the_start(start, target: Path, chunked: bool) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    mirror = start(ranges=False, chunked=chunked)
    get(target, mirror)
    assert only_the_target(target)
    assert len(mirror.seen) == 1


def test_a_page_in_place_of_the_file_leaves_what_is_there(start, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:-1000])
    portal, mirror = start(ranges=False, files={"data.gz": b"<html>" * 99}), start()
    get(target, portal, mirror, size=len(CONTENT))
    assert only_the_target(target)
    assert mirror.seen == [("/data.gz", f"bytes={len(CONTENT) - 1000}-")]


def test_leftovers_that_do_not_fit_are_thrown_away(start, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * 1000)
    mirror = start()
    get(target, mirror)
    assert only_the_target(target)
    assert [asked for _, asked in mirror.seen] == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 1])
def test_leftovers_of_full_length_or_more(start, target: Path, length: int, size: int | None) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * length)
    get(target, start(), size=size)
    assert only_the_target(target)


def test_complete_leftovers_need_no_server(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    fetch("data.gz", [], target, MD5)
    assert only_the_target(target)


def test_wrong_content_is_refused_and_removed(start, target: Path) -> None:
    with pytest.raises(DataError, match="wrong checksum"):
        get(target, start(files={"data.gz": CONTENT[:-1] + b"?"}), size=len(CONTENT))
    assert list(target.parent.iterdir()) == []


def test_falls_through_bad_mirrors(start, target: Path) -> None:
    bad = [
        start(files={}),
        start(status=503),
        start(files={"data.gz": b"<html>please log in</html>"}),
        start(files={"data.gz": CONTENT + b"x"}),
        start(files={"data.gz": CONTENT + b"x"}, chunked=True),
        start(files={"data.gz": b"?" + CONTENT[1:]}),
    ]
    get(target, *bad, start(), size=len(CONTENT))
    assert only_the_target(target)
    assert all(mirror.seen for mirror in bad)


def test_a_wrong_range_is_not_appended(start, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1000])
    with pytest.raises(DataError, match="another range"):
        get(target, start(lie_about_start=5))
    assert part_of(target).read_bytes() == CONTENT[:1000]


def test_all_reasons_in_one_line(start, target: Path) -> None:
    with pytest.raises(DataError) as caught:
        get(target, start(files={}), start(status=500))
    message = str(caught.value)
    assert "404" in message
    assert "500" in message
    assert f"put it into {target.parent} by hand" in message
    assert "\n" not in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/data.gz", "http://no-such-host.invalid/data.gz", "file:///etc/passwd", "http://[/x", ""]
)
def test_offline_and_odd_addresses(target: Path, url: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"put it into {target.parent} by hand")):
        fetch("data.gz", [url], target, MD5, timeout=5)
    assert not target.exists()


def test_a_silent_server_times_out(start, target: Path) -> None:
    mirror = start(stall=3.0, stall_after=50_000)
    began = time.monotonic()
    with pytest.raises(DataError, match="timed out"):
        fetch("data.gz", [mirror.url], target, MD5, timeout=0.1)
    assert time.monotonic() - began < 2.5
    assert part_of(target).stat().st_size > 0


def test_two_at_once_fetch_once(start, target: Path) -> None:
    mirror = start(stall=0.05, stall_after=len(CONTENT))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            mirror.seen.clear()
            assert set(pool.map(lambda _: get(target, mirror), range(16))) == {target}
            assert only_the_target(target)
            assert len(mirror.seen) == 1
            target.unlink()


def test_killed_in_the_middle_then_resumed(start, target: Path) -> None:
    mirror = start(stall=30.0, stall_after=200_000)
    code = (
        "import sys; from pathlib import Path; from vaelens.data.download import fetch\n"
        "fetch('data.gz', [sys.argv[1]], Path(sys.argv[2]), sys.argv[3])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, mirror.url, str(target), MD5])
    deadline = time.monotonic() + 20
    part = part_of(target)
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept <= 200_000
    assert not target.exists()
    again = start()
    get(target, again)
    assert only_the_target(target)
    assert again.seen == [("/data.gz", f"bytes={kept}-")]


def test_full_disk_is_one_clear_line(start, target: Path) -> None:
    mirror = start()
    code = (
        "import resource, signal, sys; from pathlib import Path; from vaelens.data.download import fetch\n"
        "from vaelens.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: fetch('data.gz', [sys.argv[1]], Path(sys.argv[2]), sys.argv[3])\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, mirror.url, str(target), MD5], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"cannot write {target}: ")
    assert "VAELENS_CACHE" in done.stdout
    assert done.stdout.count("\n") == 1
    assert len(mirror.seen) == 1  # another mirror would not help
    assert not target.exists()


def test_a_cache_folder_that_cannot_be_made(start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*VAELENS_CACHE"):
        get(tmp_path / "file" / "data.gz", start())


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAELENS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("mnist") == tmp_path / ".cache" / "vaelens" / "mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/to/be/ignored")
    assert cache_folder("mnist") == tmp_path / ".cache" / "vaelens" / "mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/xdg")
    assert cache_folder("mnist") == Path("/var/tmp/xdg/vaelens/mnist")
    monkeypatch.setenv("VAELENS_CACHE", "~/here")
    assert cache_folder("mnist") == tmp_path / "here" / "mnist"


def test_mnist_from_a_mirror(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path) -> None:
    """The whole way with real MNIST: cut once, the rest from the second mirror, then from the cache without a server."""
    files = {path.name: path.read_bytes() for path in (real_data / "mnist").glob("*.gz")}
    sums = {name: (hashlib.md5(files[f"{name}.gz"]).hexdigest(), len(files[f"{name}.gz"])) for name in mnist.FILES}
    monkeypatch.setattr(mnist, "FILES", sums)
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    first, second = start(files=files, cut_after=[1_000_000, 0]), start(files=files)
    del files["t10k-labels-idx1-ubyte.gz"]
    second.files = {**files, "t10k-labels-idx1-ubyte.gz": (real_data / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes()}
    bases = [mirror.url.removesuffix("data.gz") for mirror in (first, second)]
    train, test = mnist.load_mnist(mirrors=bases)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert ("/train-images-idx3-ubyte.gz", "bytes=1000000-") in second.seen
    assert ("/t10k-labels-idx1-ubyte.gz", None) in second.seen
    again, _ = mnist.load_mnist(mirrors=[])
    assert again.images.equal(train.images)
    assert sorted(os.listdir(tmp_path / "mnist")) == sorted(f"{name}.gz" for name in mnist.FILES)  # noqa: PTH208


def test_published_sums_are_of_the_published_lengths() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", md5) and size > 4000 for md5, size in mnist.FILES.values())
    assert sum(size for _, size in mnist.FILES.values()) == 11_594_722
