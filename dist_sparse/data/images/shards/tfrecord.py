"""TFRecord shards of tf.train.Example, without TensorFlow: the framing is read here, the messages by protobuf."""

import functools
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import google_crc32c

from dist_sparse.data.images.shards.entry import Entry, ForeignShard, TruncatedShard

IMAGE, LABEL, NAME = "image/encoded", "image/class/label", "image/filename"


def scan(path: Path) -> Iterator[Entry]:
    """The samples of a shard in order; every record's checksums are compared."""
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            record = _record(file, head, number)
            yield _entry(record, file.tell() - 4 - len(record), number)
            number += 1


def write(samples: Iterable[tuple[str, bytes, int]], file: BinaryIO) -> None:
    """Fill a shard with samples of name, encoded image and label."""
    for name, data, label in samples:
        example = _example_class()()
        feature = example.features.feature
        feature[IMAGE].bytes_list.value.append(data)
        feature[LABEL].int64_list.value.append(label)
        feature[NAME].bytes_list.value.append(os.fsencode(name))
        record = example.SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(record))
        file.write(length + _checksum(length) + record + _checksum(record))


def sample_name(position: int, file: str) -> str:
    """What a packed file is called."""
    return f"{position:08d}-{PurePath(file).name}"


def _record(file: BinaryIO, head: bytes, number: int) -> bytes:
    """The record whose length and checksum are ``head``."""
    if len(head) < 12:
        raise TruncatedShard(f"record {number} is cut off")
    if _checksum(head[:8]) != head[8:]:
        raise TruncatedShard(f"record {number} has a wrong checksum")
    (length,) = struct.unpack("<Q", head[:8])
    if length > os.fstat(file.fileno()).st_size:  # not even asked for: a foreign file may say anything
        raise TruncatedShard(f"record {number} is cut off")
    record, checksum = file.read(length), file.read(4)
    if len(record) < length or len(checksum) < 4:
        raise TruncatedShard(f"record {number} is cut off")
    if _checksum(record) != checksum:
        raise TruncatedShard(f"record {number} has a wrong checksum")
    return record


def _entry(record: bytes, offset: int, number: int) -> Entry:
    from google.protobuf.message import DecodeError

    example = _example_class()()
    try:
        example.ParseFromString(record)
    except DecodeError:
        raise ForeignShard(f"record {number} is no tf.train.Example") from None
    feature = example.features.feature
    image, label = feature[IMAGE].bytes_list.value, feature[LABEL].int64_list.value
    if not image or not label:
        raise ForeignShard(f"record {number} lacks {IMAGE if not image else LABEL}")
    names = feature[NAME].bytes_list.value
    name = os.fsdecode(names[0]) if names else ""
    return Entry(name, offset + record.find(image[0]), len(image[0]), label[0])


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC32C."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example_class() -> Any:
    """The class of tf.train.Example, made from its definition (tensorflow/core/example/example.proto and feature.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="dist_sparse/example.proto", package="dist_sparse", syntax="proto3")

    def message(parent: Any, name: str, **fields: tuple[int, int, str | None, bool]) -> Any:
        made = parent.add(name=name)
        for field, (number, kind, of, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made.field.add(name=field, number=number, type=kind, type_name=of and f".dist_sparse.{of}", label=label)
        return made

    messages = file.message_type
    message(messages, "BytesList", value=(1, kinds.TYPE_BYTES, None, True))
    message(messages, "FloatList", value=(1, kinds.TYPE_FLOAT, None, True))
    message(messages, "Int64List", value=(1, kinds.TYPE_INT64, None, True))
    lists = {f"{kind.lower()}_list": (n, kinds.TYPE_MESSAGE, f"{kind}List", False) for n, kind in enumerate(KINDS, 1)}
    feature = message(messages, "Feature", **lists)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(messages, "Features", feature=(1, kinds.TYPE_MESSAGE, "Features.FeatureEntry", True))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        key=(1, kinds.TYPE_STRING, None, False),
        value=(2, kinds.TYPE_MESSAGE, "Feature", False),
    )
    entry.options.map_entry = True
    message(messages, "Example", features=(1, kinds.TYPE_MESSAGE, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("dist_sparse.Example"))


KINDS = ("Bytes", "Float", "Int64")
