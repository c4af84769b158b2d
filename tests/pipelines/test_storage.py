"""One behaviour for disk and S3: most tests here run over both."""

import http.client
import io
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boto3.s3.transfer import TransferConfig

from pipelines.storage import Storage, StorageError, StorageOptions, StoredFile
from pipelines.storage_address import open_file, open_storage
from tests.s3_server import S3Server

BAD_PATHS = ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./a", "a//b", "a/", "a\\b", "a\0b"]


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Open a folder that does not exist yet."""
    if request.param == "disk":
        return open_storage(str(tmp_path / "root"))
    bucket: str = request.getfixturevalue("bucket")
    return open_storage(f"{bucket}/root", endpoint_of(request.getfixturevalue("s3")))


def endpoint_of(server: S3Server) -> StorageOptions:
    return StorageOptions(s3_endpoint_url=server.endpoint_url)


def parquet_of(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


class TestWholeFiles:
    """Reading, writing and deleting."""

    @pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 40_000])
    def test_read_returns_what_write_took(self, storage: Storage, content: bytes) -> None:
        storage.write("a/b c/é.bin", content)
        storage.write("view", memoryview(content)[1:])
        assert storage.read("a/b c/é.bin") == content
        assert storage.read("view") == content[1:]

    def test_write_replaces(self, storage: Storage) -> None:
        storage.write("a", b"long old content")
        storage.write("a", b"new")
        assert storage.read("a") == b"new"
        assert storage.list() == [StoredFile(path="a", num_bytes=3)]

    def test_readers_never_see_a_mixture_nor_a_temporary_file(self, storage: Storage) -> None:
        contents = [bytes([letter]) * 3_000_000 for letter in b"AB"]
        storage.write("f", contents[0])
        done = threading.Event()

        def watch() -> int:
            num_looks = 0
            while not done.is_set():
                assert storage.read("f") in contents
                assert storage.list() == [StoredFile(path="f", num_bytes=3_000_000)]
                num_looks += 1
            return num_looks

        with ThreadPoolExecutor(3) as pool:
            watchers = [pool.submit(watch) for _ in range(3)]
            try:
                for turn in range(20):
                    storage.write("f", contents[turn % 2])
            finally:
                done.set()
            assert sum(watcher.result() for watcher in watchers) > 0

    def test_absent_file_is_file_not_found_and_named(self, storage: Storage) -> None:
        storage.write("folder/x", b"x")
        for path in ("nothing", "folder", "folder/x/y", "folder/nothing"):
            with pytest.raises(FileNotFoundError) as caught:
                storage.read(path)
            assert caught.value.filename == f"{storage.uri}/{path}"

    def test_exists_means_a_file(self, storage: Storage) -> None:
        storage.write("folder/x-long", b"x")
        assert storage.exists("folder/x-long")
        for path in ("folder", "folder/x", "folder/y", "other", "folder/x-long/z"):
            assert not storage.exists(path)

    def test_delete_removes_and_forgives_absence(self, storage: Storage) -> None:
        storage.write("folder/x", b"x")
        storage.write("folder/y", b"y")
        storage.delete("folder/x")
        storage.delete("folder/x")
        storage.delete("nowhere/x")
        assert [file.path for file in storage.list()] == ["folder/y"]

    def test_unsafe_path_is_refused_and_named(self, storage: Storage) -> None:
        acts: list[Callable[[str], object]] = [
            storage.read,
            storage.exists,
            storage.delete,
            lambda path: storage.move(path, "target"),
            lambda path: storage.move("source", path),
            lambda path: storage.write(path, b""),
            lambda path: storage.create(path, b""),
        ]
        for act, path in itertools.product(acts, BAD_PATHS):
            with pytest.raises(ValueError, match="must be relative") as caught:
                act(path)
            assert repr(path) in str(caught.value)

    def test_unsafe_list_prefix_is_refused(self, storage: Storage) -> None:
        for prefix in ("/", "..", "a//", "/a"):
            with pytest.raises(ValueError, match="must be relative"):
                storage.list(prefix)


class TestMove:
    """Moving files from folder to folder."""

    def test_a_file_moves_with_its_content(self, storage: Storage) -> None:
        storage.write("from/x", b"moved")
        storage.write("from/y", b"stays")
        storage.move("from/x", "to/deep/z")
        assert [file.path for file in storage.list()] == ["from/y", "to/deep/z"]
        assert storage.read("to/deep/z") == b"moved"

    def test_a_file_at_the_target_is_replaced(self, storage: Storage) -> None:
        storage.write("x", b"new")
        storage.write("y", b"old content")
        storage.move("x", "y")
        assert storage.list() == [StoredFile(path="y", num_bytes=3)]
        assert storage.read("y") == b"new"

    def test_a_move_may_be_repeated(self, storage: Storage) -> None:
        storage.write("from/x", b"moved")
        for _ in range(2):
            storage.move("from/x", "to/x")
        assert storage.read("to/x") == b"moved"
        storage.write("from/x", b"moved")  # as after a kill between the copy in a bucket and its deletion
        storage.move("from/x", "to/x")
        assert [file.path for file in storage.list()] == ["to/x"]

    def test_moving_what_is_nowhere_fails(self, storage: Storage) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            storage.move("from/x", "to/x")
        assert caught.value.filename == f"{storage.uri}/from/x"

    def test_a_large_file_is_copied_in_pieces(
        self, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "pipelines.storage_s3._COPY",
            TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20, use_threads=False),
        )
        storage = open_storage(bucket, endpoint_of(s3))
        content = bytes(range(256)) * 50_000
        storage.write("from/x", content)
        storage.move("from/x", "to/x")
        assert [file.path for file in storage.list()] == ["to/x"]
        assert storage.read("to/x") == content

    @pytest.mark.skipif(
        not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev,
        reason="needs two disks",
    )
    def test_a_file_moves_between_disks(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
            (tmp_path / "linked").symlink_to(other)
            storage.write("x", b"moved")
            storage.move("x", "linked/x")
            assert storage.list() == [StoredFile(path="linked/x", num_bytes=5)]
            storage.move("linked/x", "x")
            assert storage.read("x") == b"moved"
            assert os.listdir(other) == []

    def test_folders_without_files_go(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        for path in ("a/b/x", "a/y", "c/d/z"):
            storage.write(path, b"")
        storage.delete("a/b/x")
        storage.move("c/d/z", "a/z")
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/y", "a/z"]

    def test_a_folder_that_goes_never_fails_a_writer_beside_it(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))

        def come_and_go(writer: int) -> None:
            for turn in range(200):
                storage.write(f"a/b/{writer}", b"")
                storage.move(f"a/b/{writer}", f"c/{writer}-{turn}")
                storage.delete(f"c/{writer}-{turn}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(come_and_go, range(4)))
        assert storage.list() == []


class TestCreate:
    """Exclusive creation."""

    def test_first_wins_and_its_content_stays(self, storage: Storage) -> None:
        assert storage.create("a/b", b"first")
        assert not storage.create("a/b", b"second")
        assert storage.read("a/b") == b"first"
        assert storage.list() == [StoredFile(path="a/b", num_bytes=5)]

    def test_a_written_file_is_taken_and_a_deleted_one_is_free(self, storage: Storage) -> None:
        storage.write("a", b"written")
        assert not storage.create("a", b"created")
        storage.delete("a")
        assert storage.create("a", b"created")

    def test_exactly_one_of_16_racers_wins(self, storage: Storage) -> None:
        storage.exists("warm-up")
        start = threading.Barrier(16)

        def run(racer: int) -> bool:
            start.wait()
            return storage.create("race", b"%d" % racer * 1000)

        with ThreadPoolExecutor(16) as pool:  # SeaweedFS keeps most losers waiting for seconds
            won = list(pool.map(run, range(16)))
        assert won.count(True) == 1
        assert storage.read("race") == b"%d" % won.index(True) * 1000


class TestList:
    """Listings."""

    def test_is_recursive_sorted_and_relative_to_the_root(self, storage: Storage) -> None:
        paths = ["B", "a-b/x", "a/b/c", "a/b.txt", "a.txt", "a/Z", "é"]
        for path in paths:
            storage.write(path, path.encode())
        assert storage.list() == [
            StoredFile(path=path, num_bytes=len(path.encode())) for path in sorted(paths)
        ]

    def test_prefix_is_a_folder_not_a_string_prefix(self, storage: Storage) -> None:
        for path in ("data/x", "data/y/z", "data2/x", "data.txt"):
            storage.write(path, b"")
        for prefix in ("data", "data/"):
            assert [file.path for file in storage.list(prefix)] == ["data/x", "data/y/z"]
        assert [file.path for file in storage.list("data/y")] == ["data/y/z"]

    def test_absent_folder_is_empty(self, storage: Storage) -> None:
        assert storage.list() == []
        storage.write("file", b"")
        assert storage.list("nothing") == []
        assert storage.list("file") == []

    def test_has_no_page_limit(self, storage: Storage) -> None:
        paths = [f"many/{number:04d}" for number in range(2100)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda path: storage.write(path, b"x"), paths))
        assert [file.path for file in storage.list()] == paths


class TestHandingOver:
    """Other processes and other libraries."""

    def test_used_storage_survives_pickling(self, storage: Storage) -> None:
        storage.write("a", b"content")
        copy = pickle.loads(pickle.dumps(storage))
        assert copy.uri == storage.uri
        assert copy.read("a") == b"content"

    def test_arrow_reads_what_write_wrote(self, storage: Storage) -> None:
        table = pa.table({"number": list(range(1000))})
        storage.write("tables/one two.parquet", parquet_of(table))
        filesystem, base = pickle.loads(pickle.dumps(storage.arrow()))
        assert pq.read_table(f"{base}/tables/one two.parquet", filesystem=filesystem) == table
        assert pq.read_table(f"{base}/tables", filesystem=filesystem) == table

    def test_storage_reads_what_arrow_wrote(self, storage: Storage) -> None:
        filesystem, base = storage.arrow()
        filesystem.create_dir(base)
        with filesystem.open_output_stream(f"{base}/a") as stream:
            stream.write(b"content")
        assert storage.read("a") == b"content"

    def test_open_file_finds_the_file(self, storage: Storage, s3: S3Server) -> None:
        storage.write("tables/prompts.csv", b"prompt")
        folder, name = open_file(f"{storage.uri}/tables/prompts.csv", endpoint_of(s3))
        assert (folder.uri, name) == (f"{storage.uri}/tables", "prompts.csv")
        assert folder.read(name) == b"prompt"


class TestAddresses:
    """What can be opened."""

    def test_local_spellings_mean_one_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "a b"
        for uri in ("a b", "./c/../a b/", str(folder), f"{folder}/", folder.as_uri()):
            assert open_storage(uri).uri == str(folder)
        assert open_file("a b/x.csv")[0].uri == str(folder)
        assert open_file("x.csv")[0].uri == str(tmp_path)
        assert open_file("/x.csv")[0].uri == "/"

    def test_s3_address_is_canonical(self) -> None:
        assert open_storage("s3://bucket").uri == "s3://bucket"
        assert open_storage("s3://bucket/").uri == "s3://bucket"
        assert open_storage("s3://bucket/a b/c/").uri == "s3://bucket/a b/c"
        assert open_file("s3://bucket/x.csv")[0].uri == "s3://bucket"

    @pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3a://bucket/x"])
    def test_unknown_scheme_is_named_with_what_is_supported(self, uri: str) -> None:
        for opener in (open_storage, open_file):
            with pytest.raises(ValueError, match=f"{uri.split(':')[0]!r}.*s3://bucket/prefix"):
                opener(uri)

    @pytest.mark.parametrize(
        ("uri", "reason"),
        [
            ("", "not a storage address"),
            ("a\0b", "not a storage address"),
            ("s3:bucket", "not a storage address"),
            ("s3:/bucket/x", "not a storage address"),
            ("file:x", "not a storage address"),
            ("file://host/x", "no absolute path"),
            ("s3://", "has no bucket"),
            ("s3:///x", "has no bucket"),
            ("s3://bucket/../x", "must be relative"),
        ],
    )
    def test_malformed_address_is_refused(self, uri: str, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            open_storage(uri)

    @pytest.mark.parametrize(
        "uri", ["dir/", "..", "dir/..", "s3://bucket", "s3://bucket/", "s3://bucket/d/", "/"]
    )
    def test_open_file_refuses_a_folder(self, uri: str) -> None:
        with pytest.raises(ValueError, match="is a folder"):
            open_file(uri)

    @pytest.mark.parametrize("url", ["", "localhost:9000", "ftp://host", "http://"])
    def test_endpoint_must_be_a_url(self, url: str) -> None:
        with pytest.raises(ValueError, match="s3_endpoint_url"):
            StorageOptions(s3_endpoint_url=url)


class TestDiskErrors:
    """What only a disk can do."""

    def test_failure_is_a_storage_error_with_path_and_reason(self, tmp_path: Path) -> None:
        storage = open_storage(str(tmp_path))
        (tmp_path / "folder" / "full").mkdir(parents=True)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="folder: Is a directory"):
            storage.write("folder", b"")
        with pytest.raises(StorageError, match="file/x: File exists"):
            storage.create("file/x", b"")
        with pytest.raises(StorageError, match="xxx: File name too long"):
            storage.read("x" * 300)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "full"]

    def test_a_folder_that_cannot_be_made_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "not mounted")
        for folder in ("link", "link/out"):
            with pytest.raises(StorageError, match="link"):
                open_storage(str(tmp_path / folder)).write("data/x", b"")

    def test_leftover_of_a_killed_writer_is_not_listed(self, tmp_path: Path) -> None:
        writer = (
            "import os, sys, pipelines.storage_address as s\n"
            "os.replace = lambda *_: os._exit(9)\n"
            "s.open_storage(sys.argv[1]).write('a', b'content')\n"
        )
        assert subprocess.run([sys.executable, "-c", writer, str(tmp_path)], check=False).returncode == 9
        assert len(list(tmp_path.iterdir())) == 1
        storage = open_storage(str(tmp_path))
        assert storage.list() == []
        with pytest.raises(ValueError, match="reserved"):
            storage.read(next(tmp_path.iterdir()).name)

    def test_files_are_as_readable_as_the_umask_says(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_bytes(b"")
        storage = open_storage(str(tmp_path))
        storage.write("written", b"")
        storage.create("created", b"")
        assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1

    def test_linked_folders_are_listed(self, tmp_path: Path) -> None:
        (tmp_path / "big-disk").mkdir()
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "data").symlink_to(tmp_path / "big-disk")
        (tmp_path / "root" / "dangling").symlink_to(tmp_path / "nothing")
        storage = open_storage(str(tmp_path / "root"))
        storage.write("data/x", b"")
        assert [file.path for file in storage.list()] == ["data/x"]


class TestS3Errors:
    """What only a server can do."""

    def test_wrong_secret(self, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        storage = open_storage(bucket, endpoint_of(s3))
        for act in (
            lambda: storage.read("x"),
            lambda: storage.write("x", b""),
            lambda: storage.create("x", b""),
            lambda: storage.exists("x"),
            lambda: storage.delete("x"),
            storage.list,
            storage.arrow,
        ):
            with pytest.raises(StorageError, match=f"^{bucket}.*{s3.endpoint_url} refused"):
                act()

    def test_missing_bucket(self, s3: S3Server) -> None:
        storage = open_storage("s3://no-such-bucket/prefix", endpoint_of(s3))
        for act in (
            lambda: storage.read("x"),
            lambda: storage.write("x", b""),
            lambda: storage.create("x", b""),
            lambda: storage.exists("x"),
            lambda: storage.delete("x"),
            storage.list,
            storage.arrow,
        ):
            with pytest.raises(
                StorageError, match="there is no bucket 'no-such-bucket' at http://127"
            ) as caught:
                act()
            assert str(caught.value).startswith("s3://no-such-bucket/prefix")

    def test_unreachable_server(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        storage = open_storage("s3://bucket", StorageOptions(s3_endpoint_url="http://127.0.0.1:1"))
        for act in (lambda: storage.read("x"), storage.arrow):
            with pytest.raises(StorageError, match=r"^s3://bucket.*Could not connect.*127\.0\.0\.1:1"):
                act()

    def test_missing_profile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        with pytest.raises(StorageError, match="no-such-profile"):
            open_storage("s3://bucket")

    def test_placeholder_of_an_empty_folder_is_no_file(self, bucket: str, s3: S3Server) -> None:
        s3.client().put_object(Bucket=bucket.removeprefix("s3://"), Key="root/folder/", Body=b"")
        assert open_storage(f"{bucket}/root", endpoint_of(s3)).list() == []


class TestS3Environment:
    """Where the server's address comes from."""

    def test_endpoint_of_the_environment_serves_both_and_travels(
        self, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
        table = pa.table({"number": [1]})
        opened = open_storage(bucket)
        pickled = pickle.dumps((opened, opened.arrow()))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        storage, (filesystem, base) = pickle.loads(pickled)
        storage.write("one.parquet", parquet_of(table))
        assert opened.exists("one.parquet")
        assert pq.read_table(f"{base}/one.parquet", filesystem=filesystem) == table

    def test_endpoint_option_goes_before_the_environment(
        self, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        storage = open_storage(bucket, endpoint_of(s3))
        storage.write("x", b"content")
        filesystem, base = storage.arrow()
        with filesystem.open_input_file(f"{base}/x") as file:
            assert file.read() == b"content"

    def test_no_secret_is_pickled(self, bucket: str, s3: S3Server) -> None:
        storage = open_storage(bucket, endpoint_of(s3))
        assert s3.secret_key.encode() not in pickle.dumps((storage, storage.arrow()))


ERRORS = {"ConditionalRequestConflict": 409, "SlowDown": 503}


class FaultyProxy(ThreadingHTTPServer):
    """Pass requests on to a server, except that the faults happen once each, in order."""

    def __init__(self, target_url: str) -> None:
        super().__init__(("127.0.0.1", 0), FaultyHandler)
        self.target = urlsplit(target_url).netloc
        self.faults: list[tuple[str, str]] = []  # (HTTP method, what happens)

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(s3_endpoint_url=f"http://127.0.0.1:{self.server_port}")


class FaultyHandler(BaseHTTPRequestHandler):
    """One connection of a FaultyProxy."""

    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_GET(self) -> None:
        self.pass_on()

    do_PUT = do_HEAD = do_GET

    def pass_on(self) -> None:
        fault = ""
        if self.server.faults and self.server.faults[0][0] == self.command:
            fault = self.server.faults.pop(0)[1]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault in ERRORS:
            self.answer(ERRORS[fault], [], f"<Error><Code>{fault}</Code></Error>".encode())
            return
        upstream = http.client.HTTPConnection(self.server.target)
        upstream.request(self.command, self.path, body, dict(self.headers))
        reply = upstream.getresponse()
        content = reply.read()
        self.close_connection = bool(fault)
        if fault == "lose answer":
            return
        self.answer(reply.status, reply.getheaders(), content, cut=fault == "cut answer")

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        # The answer to HEAD has no content, but tells the length of what GET would bring.
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        self.send_header("Content-Length", (lengths or [str(len(content))])[0])
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint_url) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestS3Faults:
    """A network that fails once: every fault here really happened when its list is empty."""

    def test_creator_whose_answer_got_lost_still_won(self, bucket: str, proxy: FaultyProxy) -> None:
        storage = open_storage(bucket, proxy.options)
        proxy.faults = [("PUT", "lose answer")]
        assert storage.create("a", b"content")
        assert proxy.faults == []
        assert not storage.create("a", b"content")

    def test_loser_whose_answer_got_lost_still_lost(self, bucket: str, proxy: FaultyProxy) -> None:
        storage = open_storage(bucket, proxy.options)
        storage.create("a", b"content")
        proxy.faults = [("PUT", "lose answer")]
        assert not storage.create("a", b"content")
        assert proxy.faults == []

    def test_conflict_is_tried_again(self, bucket: str, proxy: FaultyProxy) -> None:
        storage = open_storage(bucket, proxy.options)
        proxy.faults = [("PUT", "ConditionalRequestConflict")] * 2
        assert storage.create("a", b"content")
        assert proxy.faults == []

    def test_broken_download_is_tried_again(self, bucket: str, proxy: FaultyProxy) -> None:
        storage = open_storage(bucket, proxy.options)
        storage.write("a", b"content" * 100_000)
        proxy.faults = [("GET", "cut answer")] * 2
        assert storage.read("a") == b"content" * 100_000
        assert proxy.faults == []

    def test_pickled_arrow_filesystem_keeps_its_number_of_attempts(
        self, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # Arrow's own default, 3, would get past one fault
        storage = open_storage(bucket, proxy.options)
        storage.write("a", b"content" * 100)  # longer than the fault's text, else Arrow cannot retry
        filesystem, base = pickle.loads(pickle.dumps(storage.arrow()))
        proxy.faults = [("GET", "SlowDown")]
        with (
            filesystem.open_input_stream(f"{base}/a") as stream,
            # Arrow goes by the answer's text, or by its status if the text came too late.
            pytest.raises(OSError, match=r"SLOW_DOWN|SERVICE_UNAVAILABLE"),
        ):
            stream.read()
        assert proxy.faults == []
