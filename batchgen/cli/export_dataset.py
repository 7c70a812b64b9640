"""The formats of `batchgen export` for training and analysis: Parquet, WebDataset shards, and a folder for Hugging
Face's ImageFolder. Memory does not grow with the rows.

Sources: webdataset 1.0.2, tariterators.py (a sample is the adjacent files whose names are the same up to the first
dot); Hugging Face's datasets 5.2, folder_based_builder.py (metadata.jsonl with `file_name`) and data_files.py (a folder
called train is one split whatever its files are called; outside of one, `mug-test.png` would be the test split).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from batchgen.errors import StoreError, UsageError
from batchgen.store.store import Store

Row = Mapping[str, Any]
ROW_GROUP = 2_000  # rows of a Parquet file that are in memory at once
SPLIT_FOLDER, METADATA_FILE = "train", "metadata.jsonl"
SHARD_NAME = "shard-{:06}.tar"
MISSING_LIBRARY = "--format parquet needs the library pyarrow: pip install 'batchgen[parquet]'"
_NOT_IN_KEYS = re.compile(r"[^\w-]")  # `#` and dots; a key ends at the first dot of a name


@contextlib.contextmanager
def replacing(target: str) -> Iterator[str]:
    """The path of a file or folder to write, which is renamed to `target` once it is whole. Raises StoreError."""
    part = f"{target}.{os.getpid()}.part"
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror or error}") from None
    finally:  # also if the caller stops early
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(part)


def refuse_taken_folder(target: str) -> None:
    """Raises UsageError if there is something already."""
    if os.path.lexists(target):
        raise UsageError(f"--to {target}: is there already: name a new folder, or remove it first")


def write_parquet(target: str, rows: Iterable[Row], columns: type) -> int:
    """Write a Parquet file, and return the number of rows. columns: the TypedDict of a row. Raises StoreError, and
    UsageError without the library."""
    try:
        import pyarrow as arrow  # an extra, and 0.2 s
        from pyarrow import parquet  # as above
    except ImportError:
        raise UsageError(MISSING_LIBRARY) from None
    kinds, written = get_type_hints(columns), 0
    schema = arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in kinds.items()])
    as_json = [name for name, kind in kinds.items() if _holds_any_keys(kind)]
    rows = ({**row, **{name: json.dumps(row[name], ensure_ascii=False) for name in as_json}} for row in rows)
    with replacing(target) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
            written += len(group)
    return written


def _arrow_type(arrow: Any, kind: Any) -> Any:
    """The Arrow type of a declared type, so that files of different jobs have the same columns whatever their rows
    contain."""
    if _holds_any_keys(kind):
        return arrow.string()
    if is_typeddict(kind):
        return arrow.struct([(name, _arrow_type(arrow, each)) for name, each in get_type_hints(kind).items()])
    inner = [_arrow_type(arrow, each) for each in get_args(kind) if each is not NoneType]
    if get_origin(kind) is list:
        return arrow.list_(inner[0])
    scalars = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string()}
    return inner[0] if inner else scalars[kind]


def _holds_any_keys(kind: Any) -> bool:
    """Whether a type is, or is a list of, objects without declared keys: such a column is JSON text."""
    return get_origin(kind) is dict or any(map(_holds_any_keys, get_args(kind)))


def write_webdataset(target: str, rows: Iterable[Row], store: Store, shard_bytes: int) -> int:
    """Write a folder of tar files of at most about `shard_bytes` each. Each sample is KEY.png (or another ending),
    KEY.json, and KEY.txt with the prompt. The same rows make the same bytes. Returns the number of samples. Raises
    StoreError."""
    written, shards, size = 0, 0, 0
    with replacing(target) as folder, contextlib.ExitStack() as opened:
        os.mkdir(folder)
        for row in rows:
            image = _image(store, row)
            if not shards or size + len(image) > shard_bytes:
                opened.close()
                tar = opened.enter_context(tarfile.open(os.path.join(folder, SHARD_NAME.format(shards)), "w"))
                shards, size = shards + 1, 0
            ending = os.path.splitext(row["file"])[1]
            for name, data in ((ending, image), (".json", _json(row)), (".txt", row["prompt"].encode())):
                member = tarfile.TarInfo(dataset_key(row["key"]) + name)  # without owner and time
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            tar.getmembers().clear()  # it would keep each for a reader
            written, size = written + 1, size + len(image)
        opened.close()
    return written


def dataset_key(key: str) -> str:
    """A sample's key as a file name up to its first dot: `mug#2` is `mug%232`, and different keys stay different."""
    return _NOT_IN_KEYS.sub(lambda found: f"%{ord(found[0]):02X}", key)


def write_imagefolder(target: str, rows: Iterable[Row], store: Store) -> int:
    """Write a folder with the images under their own names, which are unique in a job, and their rows as
    metadata.jsonl. An image is a hard link if the disk allows it. Returns the number of images. Raises StoreError."""
    written = 0
    with replacing(target) as root:
        folder = os.path.join(root, SPLIT_FOLDER)
        os.makedirs(folder)
        with open(os.path.join(folder, METADATA_FILE), "wb") as metadata:
            for row in rows:
                image, path = _image(store, row), os.path.join(folder, row["file"])
                try:
                    os.link(os.path.join(store.root, row["file"]), path)
                except OSError:  # another disk, or a bucket
                    with open(path, "xb") as file:
                        file.write(image)
                metadata.write(_json({"file_name": row["file"], **row}) + b"\n")
                written += 1
    return written


def _json(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _image(store: Store, row: Row) -> bytes:
    """The bytes of an image. Raises StoreError if they are not what the ledger knows."""
    try:
        with store.open(row["file"]) as file:
            image = file.read()
    except FileNotFoundError:
        raise StoreError(f"{row['file']}: the image is missing: `batchgen verify` lists what is") from None
    if hashlib.sha256(image).hexdigest() != row["sha256"]:
        raise StoreError(
            f"{row['file']}: the image is not as the ledger has it: `batchgen verify` lists what has changed"
        )
    return image
