"""Packed files made to do harm by their header: its line, its JSON, what it says of arrays and chunks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headers
import numpy as np
from hostile_cases import case, in_header, in_pack

F, L = "features/block5_pool", "features/logits"
TABLE = "bank/cuts/block5_pool/chunks"

# the file, and its first line -------------------------------------------------------------------------


@in_pack("is empty")
def empty(data: bytes) -> bytes:
    return b""


@in_pack("does not start like")
def a_pickle(data: bytes) -> bytes:
    return b"\x80\x04\x95" + data[3:]


@in_pack("does not start like")
def a_script_before_it(data: bytes) -> bytes:
    return b"#!/bin/sh\n".ljust(4096, b"\0") + data


@in_pack("has format version 1")
def hdf5_alone(data: bytes) -> bytes:
    return data[headers.block_of(data) :]


@in_pack("has format version 1")
def the_manifest_of_before(data: bytes) -> bytes:
    return b"featbank manifest; sha256" + data[25:]


@in_pack("it should have")
def something_behind_it(data: bytes) -> bytes:
    return data + b"PK\x03\x04"


@in_pack("it should have")
def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


@in_pack("its header alone takes|should have")
def header_alone(data: bytes) -> bytes:
    return data[:4000]


@in_pack("does not match its own sha256")
def another_header(data: bytes) -> bytes:
    return data.replace(b'"shapes"', b'"others"', 1)


@in_pack("does not match its own sha256")
def something_in_the_padding(data: bytes) -> bytes:
    block = headers.block_of(data)
    return data[: block - 1] + b"x" + data[block:]


def _lines() -> None:
    lines = {
        "no_length": b"featbank 2  %s\n",
        "negative_length": b"featbank 2 -5 %s\n",
        "length_in_hexadecimal": b"featbank 2 0x10 %s\n",
        "length_without_end": b"featbank 2 " + b"9" * 3000 + b" %s\n",
        "no_version": b"featbank  10 %s\n",
        "version_zero": b"featbank 0 10 %s\n",
        "two_spaces": b"featbank  2 10 %s\n",
        "carriage_return": b"featbank 2 10 %s\r\n",
        "zero_byte": b"featbank 2\0 10 %s\n",
        "no_end": b"featbank 2 10 %s ",
        "capitals": b"Featbank 2 10 %s\n",
    }
    for name, line in lines.items():

        def change(data: bytes, line: bytes = line) -> bytes:
            text = line.replace(b"%s", b"0" * 64)
            return text + data[len(text) :]

        change.__name__ = f"line_{name}"
        in_pack("does not start like")(change)


_lines()


@in_pack("header of 9999999 bytes, more than")
def line_of_megabytes(data: bytes) -> bytes:
    return b"featbank 2 9999999 " + b"0" * 64 + b"\n" + data


@in_pack("its header alone takes")
def line_beyond_the_end(data: bytes) -> bytes:
    return b"featbank 2 1000000 " + b"0" * 64 + b"\n" + data


@in_pack("header of .* bytes, more than")
def header_of_megabytes(data: bytes) -> bytes:
    return headers.with_header(data, b" " * 2_000_000)


@in_pack("has format version 3")
def version_of_the_future(data: bytes) -> bytes:
    return headers.forged(data, lambda document: document.update(format_version=3))


@in_pack("not JSON as featbank writes it")
def version_that_lies(data: bytes) -> bytes:
    return headers.with_header(data, headers.canonical(headers.header_of(data)), version=1)


# its JSON --------------------------------------------------------------------------------------------


def _raw(name: str, header: Callable[[dict[str, Any]], bytes]) -> None:
    def change(data: bytes) -> bytes:
        return headers.with_header(data, header(headers.header_of(data)))

    change.__name__ = f"json_{name}"
    in_pack("not JSON as featbank writes it")(change)


def _with_text(document: dict[str, Any], text: str) -> bytes:
    """The header with this JSON for the size of the file."""
    return headers.canonical({**document, "size": "@"}).replace(b'"@"', text.encode())


_raw("nothing", lambda document: b"")
_raw("deep_lists", lambda document: b"[" * 200_000 + b"]" * 200_000)
_raw("deep_objects", lambda document: b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
_raw("spaces", lambda document: json.dumps(document, sort_keys=True).encode())
_raw(
    "other_order",
    lambda document: json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode(),
)
_raw("no_object", lambda document: b"[1,2,3]")
_raw("text", lambda document: b'"featbank"')
_raw("null", lambda document: b"null")
_raw("no_unicode", lambda document: headers.canonical(document).replace(b'"pack"', b'"p\xffck"'))
_raw("two_objects", lambda document: headers.canonical(document) * 2)
_raw("zero_byte_behind", lambda document: headers.canonical(document) + b"\0")
_raw("name_twice", lambda document: b'{"size":1,' + headers.canonical(document)[1:])
_raw("array_twice", lambda document: headers.canonical(document).replace(b'"labels":', b'"ids":', 1))
for _name, _text in (
    ("no_number", "NaN"),
    ("infinity", "Infinity"),
    ("minus_infinity", "-Infinity"),
    ("beyond_all", "1e999"),
    ("endless_digits", "9" * 5000),
    ("exponent", "1e3"),
    ("leading_zero", "007"),
    ("plus", "+7"),
    ("comment", "7/*x*/"),
):
    _raw(_name, lambda document, text=_text: _with_text(document, text))

for _part in ("kind", "size", "facts", "arrays", "checksums", "format_version"):
    in_header(
        f"lacks_{_part}",
        "not made of|should have|no 'pack'|not JSON as",
        lambda document, part=_part: document.pop(part) and None,
    )
for _part, _value in (
    ("kind", "shard"),
    ("kind", ["pack"]),
    ("kind", "\x1b[31m" * 100),
    ("size", -1),
    ("size", True),
    ("size", 2**70),
    ("size", "much"),
    ("facts", []),
    ("arrays", None),
    ("arrays", [["ids"]]),
    ("checksums", 3),
):
    in_header(
        f"{_part}_{type(_value).__name__}_{str(_value)[:8]!a}",
        "not made of|should have|no 'pack'",
        lambda document, part=_part, value=_value: document.update({part: value}),
    )

# arrays ----------------------------------------------------------------------------------------------


def _array(name: str, says: str, change: Callable[[list[Any], int], Any], which: str = F) -> None:
    """Register a change to the [dtype, shape, offset] of an array; the second argument is the file's size."""
    in_header(
        f"array_{name}",
        says,
        lambda document: change(document["arrays"][which], document["size"]) and None,
    )


def _put(place: int, value: Any) -> Callable[[list[Any], int], Any]:
    return lambda entry, size: entry.__setitem__(place, value)


for _number, _value in enumerate(
    [
        "O",
        "<i2",
        ">f2",
        "<f8",
        "|V8",
        "|S0",
        "|S9999999",
        "<U4",
        "<f2,<f4",
        "|O8",
        "<M8[s]",
        "<c16",
        "",
        "<f2\n",
    ]
):
    _array(f"type_{_number}", "has another type than", _put(0, _value))
for _number, _value in enumerate([5, None, ["<f2"], {"a": 1}, True]):
    _array(f"type_of_json_{_number}", "has another type than", _put(0, _value))
for _number, _value in enumerate(
    [
        [-11, 3, 2, 2],
        [11, 3, 2, -2],
        [11.0, 3, 2, 2],
        [True, 3, 2, 2],
        [2**48, 3, 2, 2],
        [2**70],
        [[11]],
        [],
        ["11"],
        [None],
        [1] * 9,
        [11, 0, 2, 2],
    ]
):
    _array(f"shape_{_number}", "has shape", _put(1, _value))
_array("shape_of_nothing", "does not say what", _put(1, None))
_array("terabytes_in_a_kilobyte", "which are not in the file", _put(1, [10**10, 3, 2, 2]))
_array("more_bytes_than_a_number_holds", "which are not in the file", _put(1, [2**31, 2**30, 2**30, 2**30]))
_array(
    "one_row_more_than_there_is", "which are not in the file", lambda e, size: e.__setitem__(2, size - 100)
)
for _number, _value in enumerate(
    [-1, -4096, -(2**63), 0, 100, 2**63, 2**64 - 1, 2**70, None, 5000.0, True, "4096", [1]]
):
    _array(f"offset_{_number}", "which are not in the file", _put(2, _value))
_array("offset_at_the_end", "which are not in the file", lambda entry, size: entry.__setitem__(2, size))
_array(
    "offset_before_the_end", "which are not in the file", lambda entry, size: entry.__setitem__(2, size - 1)
)
_array("offset_in_the_header", "which are not in the file", lambda entry, size: entry.__setitem__(2, 4095))
_array("too_short", "does not say what", lambda entry, size: entry.pop())
_array("too_long", "does not say what", lambda entry, size: entry.extend([1, 2]))
for _number, _value in enumerate([None, 7, "x", {}, [], [1]]):
    in_header(
        f"array_is_{_number}",
        "does not say what",
        lambda document, value=_value: document["arrays"].update({F: value}),
    )
in_header(
    "two_arrays_in_one_place",
    "share bytes",
    lambda d: d["arrays"]["labels"].__setitem__(2, d["arrays"]["ids"][2]),
)
in_header(
    "two_arrays_that_share_a_byte",
    "share bytes",
    lambda d: d["arrays"][L].__setitem__(2, d["arrays"][F][2] + 11 * 24 - 1),
)
for _number, _value in enumerate(
    ["../evil", "", "/ids", "ids/", "a//b", "features/..", "\x1b[31m", "x" * 200, "a/b/c/d/e", "é"]
):
    in_header(
        f"array_name_{_number}",
        "has an array named",
        lambda document, value=_value: document["arrays"].update({value: ["|u1", [0], 8192]}),
    )
in_header(
    "one_array_too_many",
    "lacks or has too much of 'notes'",
    lambda d: d["arrays"].update(notes=["|u1", [0], 8192]),
)
in_header(
    "thousands_of_arrays",
    "lacks or has too much of|header of|should have",
    lambda d: d["arrays"].update({f"features/c{n}": ["|u1", [0, 1], 100_000] for n in range(3000)}),
)
for _name in ("bank/manifest", "bank/bank_json", "labels", "bank/cuts/logits/shards", "statuses/logits", F):
    in_header(
        f"lacks_array_{_name}",
        "lacks or has too much of",
        lambda d, name=_name: d["arrays"].pop(name) and None,
    )
in_header(
    "labels_of_another_type",
    "are not those of its manifest",
    lambda d: d["arrays"]["labels"].__setitem__(0, "|S4"),
)
in_header(
    "features_of_another_type", "not what its cut.json says", lambda d: d["arrays"][F].__setitem__(0, "|S2")
)
in_header(
    "features_of_another_shape",
    "not what its cut.json says",
    lambda d: d["arrays"][F].__setitem__(1, [11, 12]),
)
in_header(
    "fewer_features",
    "rows of cut .* do not hold together",
    lambda d: d["arrays"][F].__setitem__(1, [10, 3, 2, 2]),
)


for _name, _value in (("key_digest", "0" * 64), ("dataset", "../x"), ("provenance", {}), ("key", None)):
    in_header(
        f"{_name}_for_other_readers",
        "says of itself what is not so",
        lambda d, name=_name, value=_value: d["facts"].update({name: value}),
    )


@in_pack("does not match its sha256")
def checksum_that_lies(data: bytes) -> bytes:
    return headers.forged(
        data, lambda d: d["checksums"].update({"statuses/logits": "0" * 64}), checksums=False
    )


@in_pack("does not match its sha256")
def checksum_that_is_none(data: bytes) -> bytes:
    return headers.forged(data, lambda d: d["checksums"].update({"statuses/logits": [1]}), checksums=False)


# chunks ----------------------------------------------------------------------------------------------


def _entry(name: str, says: str, change: Callable[[dict[str, Any]], Any]) -> None:
    in_header(f"chunks_{name}", says, lambda document: change(document["arrays"]) and None, "zstd")


for _number, _value in enumerate(["blosc", "lz4", "", None, 7, ["zstd"], "\x1b"]):
    _entry(
        f"codec_{_number}", "compressed as no file of featbank is", lambda a, v=_value: a[F].__setitem__(3, v)
    )
_entry("table_that_is_a_number", "compressed as no file of featbank is", lambda a: a[F].__setitem__(2, 8192))
_entry("no_table", "does not say where its chunks are|lacks or has", lambda a: a[F].__setitem__(2, "nowhere"))
_entry(
    "table_of_another_cut", "share bytes|not where", lambda a: a[F].__setitem__(2, "bank/cuts/logits/chunks")
)
_entry("table_that_is_compressed", "does not say where its chunks are", lambda a: a[F].__setitem__(2, L))
_entry(
    "table_too_long", "does not say where|not in the file|share", lambda a: a[TABLE].__setitem__(1, [2, 2])
)
_entry("table_of_another_type", "does not say where its chunks are", lambda a: a[TABLE].__setitem__(0, "|S8"))
_entry("no_rows", "is compressed and has rows of", lambda a: a[F].__setitem__(1, [0, 3, 2, 2]))
_entry("row_of_gigabytes", "rows of|far more", lambda a: a[F].__setitem__(1, [1, 2**25, 1, 1]))
_entry("terabytes", "far more than a file of", lambda a: a[F].__setitem__(1, [10**11, 3, 2, 2]))
_entry(
    "two_million_rows",
    "does not say where its chunks are|far more",
    lambda a: a[F].__setitem__(1, [62 * 43690, 3, 2, 2]),
)
_entry(
    "labels_in_chunks",
    "is compressed and has rows of",
    lambda a: a["labels"].__setitem__(slice(2, 4), [TABLE, "zstd"]),
)


def _place(name: str, says: str, *values: int) -> None:
    def change(data: bytes) -> bytes:
        size = len(data)
        known = {sys.maxsize: size}
        row = [known.get(value, value) for value in values]
        return headers.with_array(data, TABLE, lambda table: table.__setitem__(0, row))

    change.__name__ = f"chunk_{name}"
    in_pack(says, "zstd")(change)


_WHERE = "chunk 0 of .* is not where or what it must be"
_place("before_the_file", _WHERE, -1, 100)
_place("in_the_header", _WHERE, 0, 100)
_place("at_the_end", _WHERE, sys.maxsize, 100)
_place("beyond_the_end", _WHERE, 10**12, 100)
_place("beyond_all", _WHERE, 2**63 - 1, 2**63 - 1)
_place("of_nothing", _WHERE, 20_000, 0)
_place("of_less_than_nothing", _WHERE, 20_000, -100)
_place("larger_than_any", _WHERE, 20_000, 2000)
_place("smallest_number", _WHERE, -(2**63), -(2**63))


@in_pack("share bytes", "zstd")
def chunk_on_another_array(data: bytes) -> bytes:
    place = headers.header_of(data)["arrays"]["bank/bank_json"][2]
    return headers.with_array(data, TABLE, lambda table: table.__setitem__(0, [place, 100]))


@in_pack("share bytes", "zstd")
def chunk_on_a_chunk(data: bytes) -> bytes:
    other = headers.header_of(data)["arrays"]["bank/cuts/logits/chunks"][2]
    row = np.frombuffer(data, np.int64, 2, other)
    return headers.with_array(data, TABLE, lambda table: table.__setitem__(0, row))


@in_pack("share bytes", "zstd")
def chunk_on_its_own_table(data: bytes) -> bytes:
    place = headers.header_of(data)["arrays"][TABLE][2]
    return headers.with_array(data, TABLE, lambda table: table.__setitem__(0, [place, 16]))


in_header(
    "another_compression_than_it_says",
    "compressed otherwise",
    lambda d: d["facts"].update(compression="gzip"),
    "zstd",
)
in_header(
    "compression_it_does_not_mention",
    "compressed otherwise",
    lambda d: d["facts"].pop("compression") and None,
    "zstd",
)


# what is no file --------------------------------------------------------------------------------------


@case("neither a file nor a folder")
def fifo_for_a_file(place: Path, pack: Path, folder: Path) -> Path:
    os.mkfifo(place / "bank.h5")
    return place / "bank.h5"


@case("its header alone takes|should have|more than|does not start")
def hole_for_a_file(place: Path, pack: Path, folder: Path) -> Path:
    (place / "bank.h5").write_bytes(b"")
    os.truncate(place / "bank.h5", 2**40)
    return place / "bank.h5"


@case("it should have")
def hole_behind_a_file(place: Path, pack: Path, folder: Path) -> Path:
    (place / "bank.h5").write_bytes(pack.read_bytes())
    os.truncate(place / "bank.h5", 2**40)
    return place / "bank.h5"
