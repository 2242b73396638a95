"""Lists of paths and addresses: labels, local copies, and what cannot be fetched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from featbank.datasets import open_dataset
from featbank.datasets.sources import reopen_dataset
from featbank.errors import DatasetError, InvalidInputError, MissingDataError


class Pages(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []
    gone: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path in self.gone:
            self.send_error(404)
            return
        self.send_response(200)
        data = self.path.encode()
        self.send_header("Content-Length", str(len(data) + (9 if "short" in self.path else 0)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Pages.asked, Pages.gone = [], set()
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=pages.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{pages.server_address[1]}"
    pages.shutdown()
    thread.join()
    pages.server_close()


def put(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


def test_paths_with_and_without_labels(tmp_path):
    put(tmp_path, "pets/cat/1.jpg", "pets/dog/2.jpg", "x.png")
    (tmp_path / "pets.txt").write_bytes(
        b"\xef\xbb\xbfpets/cat/1.jpg\n\npets/dog/2.jpg\r\n" + f"{tmp_path}/x.png\tcaf".encode() + b"\xe9\n"
    )
    dataset = open_dataset(tmp_path / "pets.txt")
    assert dataset.name == "pets"
    assert dataset.ids == (f"{tmp_path}/x.png".encode(), b"pets/cat/1.jpg", b"pets/dog/2.jpg")
    assert dataset.labels == ("caf\udce9", "cat", "dog")
    assert [dataset.read(at) for at in range(3)] == [b"x.png", b"pets/cat/1.jpg", b"pets/dog/2.jpg"]


def test_addresses_are_fetched_once_to_local_copies(tmp_path, server, caplog):
    (tmp_path / "web.txt").write_text(
        f"{server}/cat/1.jpg\n{server}/dog/2.png?size=9\n{server}/dog/gone.jpg\n{server}/x\tcat\n"
    )
    put(tmp_path, "cat/here.jpg")
    with pytest.raises(MissingDataError) as caught:
        open_dataset(tmp_path / "web.txt", data_root=tmp_path / "data")
    assert str(caught.value).startswith(
        f"the 4 images that '{tmp_path}/web.txt' lists by address have no copy"
    )
    assert not Pages.asked
    Pages.gone = {"/dog/gone.jpg"}
    dataset = open_dataset(tmp_path / "web.txt", data_root=tmp_path / "data", download=True)
    assert dataset.labels == ("cat", "dog", "dog", "cat")
    assert [dataset.read(at) for at in (0, 1, 3)] == [b"/cat/1.jpg", b"/dog/2.png?size=9", b"/x"]
    with pytest.raises(FileNotFoundError):
        dataset.read(2)
    assert caplog.messages == [
        f"1 of 4 images could not be fetched, the first is '{server}/dog/gone.jpg' "
        "(HTTP Error 404: Not Found); repeat the command to try again"
    ]
    caplog.clear()
    Pages.asked, Pages.gone = [], set()
    open_dataset(tmp_path / "web.txt", data_root=tmp_path / "data")
    assert "1 of 4 images that" in caplog.messages[0]
    assert not Pages.asked
    again = open_dataset(tmp_path / "web.txt", data_root=tmp_path / "data", download=True)
    assert (Pages.asked, again.read(2)) == (["/dog/gone.jpg"], b"/dog/gone.jpg")
    reopened = reopen_dataset({"location": dataset.location}, data_root=tmp_path / "data")
    assert reopened.read(0) == b"/cat/1.jpg"
    assert {one.suffix for one in (tmp_path / "data/web").iterdir()} == {".jpg", ".png", ""}


def test_an_answer_cut_short_is_no_copy(tmp_path, server):
    (tmp_path / "web.txt").write_text(f"{server}/cat/short.jpg\n{server}/dog/short.jpg\n")
    with pytest.raises(MissingDataError, match=r"2 of 2 images could not be fetched.*cut short"):
        open_dataset(tmp_path / "web.txt", data_root=tmp_path, download=True)
    assert not [*(tmp_path / "web").iterdir()]


def test_lists_that_are_wrong(tmp_path):
    put(tmp_path, "cat/1.jpg", "dog/2.jpg", "3.jpg")
    for text, kind, said in (
        ("", DatasetError, "lists no images; write a path or an address on each line"),
        ("cat/1.jpg\ncat/9.jpg\ndog/8.jpg\n", MissingDataError, "2 of the 3 files that"),
        ("cat/1.jpg\n3.jpg\n", DatasetError, "line 2 of"),
        ("cat/1.jpg\ncat/1.jpg\n", DatasetError, "lists 1 images more than once"),
        ("cat/1.jpg\n./cat//1.jpg\ndog/2.jpg\n", DatasetError, "lists 1 images more than once"),
        ("cat/1.jpg\n", DatasetError, "has only one class, 'cat'"),
        ("file:///etc/x.jpg\tcat\n", MissingDataError, "1 of the 1 files that"),
    ):
        (tmp_path / "x.txt").write_text(text)
        with pytest.raises(kind) as caught:
            open_dataset(tmp_path / "x.txt")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="label_column='x' is for CSV files and other tables"):
        open_dataset(tmp_path / "x.txt", label_column="x")
