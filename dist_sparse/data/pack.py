"""Pack folders of images into shards: ``python -m dist_sparse.data.pack SOURCE DEST --format=webdataset [--shard-size=1000]``.

SOURCE holds ``train/<class>/`` and ``val/<class>/``, and DEST gets ``train`` and ``val`` with shards and their index, for
``--data.root=DEST``. The images keep their bytes and their positions, so a run on the shards equals one on the folders. Within
the shards they are shuffled, for readers that go through them in order. All is read back and compared before DEST appears.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dist_sparse.arguments import Parser
from dist_sparse.data.decoding import BadImage
from dist_sparse.data.images.files import ImageFiles, read_encoded
from dist_sparse.data.images.folder import FolderFiles
from dist_sparse.data.images.shards.files import list_shards, save_class_names
from dist_sparse.data.images.shards.formats import FORMATS, Format, Packed
from dist_sparse.data.images.shards.index import open_index
from dist_sparse.data.images.splits import list_splits
from dist_sparse.errors import UserError, one_line, refuse
from dist_sparse.files import atomic_folder, atomic_write
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave
from dist_sparse.seeding import generator

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Pack; 2 for a mistake of the user, 130 when interrupted."""
    parser = Parser(prog="python -m dist_sparse.data.pack", description=__doc__)
    parser.add_argument("source", type=expand, help="folder that holds train and val, each with a folder a class")
    parser.add_argument("dest", type=expand, help="folder to make")
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help="kind of shard")
    parser.add_argument("--shard-size", type=int, default=1000, metavar="IMAGES", help="images a shard (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order within the shards (default 0)")
    try:
        args = parser.parse_args(argv)
        pack(args.source, args.dest, FORMATS[args.format], shard_size=args.shard_size, seed=args.seed)
    except UserError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def pack(source: Path, dest: Path, kind: Format, *, shard_size: int, seed: int) -> None:
    """Pack both splits into the new folder ``dest``; it appears whole and verified, or not at all.

    Raises:
        UserError: a mistake in the arguments, a bad image, a full disk.
    """
    if shard_size < 1:
        raise UserError(f"--shard-size={shard_size} should be at least 1")
    if os.path.lexists(dest):
        raise UserError(f"{one_line(dest)} is there already; name a new folder, or remove it")
    splits = list_splits(source)
    try:
        with atomic_folder(dest) as folder:
            for name, files in zip(("train", "val"), splits, strict=True):
                if not isinstance(files, FolderFiles):
                    raise UserError(f"{files.place} holds shards, not folders of images")
                (folder / name).mkdir()
                save_class_names(folder / name, files.classes)
                checksums = _write(files, folder / name, kind, shard_size=shard_size, seed=seed)
                _verify(files, folder / name, kind, checksums)
    except OSError as error:
        raise UserError(f"{one_line(dest)} cannot be written: {error.strerror or error}") from error


def _write(files: FolderFiles, folder: Path, kind: Format, *, shard_size: int, seed: int) -> np.ndarray:
    """Write the shards; returns the checksum of each image as it was read, by position."""
    import torch
    from tqdm import tqdm

    size = len(files.labels)
    order = torch.randperm(size, generator=generator("pack", seed, folder.name)).tolist()
    checksums = np.zeros(size, dtype=np.int64)
    count = -(-size // shard_size)
    with tqdm(total=size, desc=f"packing {folder.name}", unit="image", disable=None) as bar:

        def samples(positions: list[int]) -> Iterator[Packed]:
            for position in positions:
                data = _whole(files, position)
                checksums[position] = zlib.crc32(data)
                yield kind.sample_name(position, files.file_name(position)), data, int(files.labels[position])
                bar.update()

        for number in range(count):
            part = order[number * shard_size : (number + 1) * shard_size]
            path = folder / kind.file_name.format(split=folder.name, number=number, count=count)
            atomic_write(path, lambda file, part=part: kind.write(samples(part), file))
    return checksums


def _whole(files: ImageFiles, position: int) -> bytes:
    image = read_encoded(files, position)
    if isinstance(image, BadImage):
        raise UserError(f"{image.name} cannot be decoded ({image.reason}); mend or remove it")
    return image.data


def _verify(files: FolderFiles, folder: Path, kind: Format, checksums: np.ndarray) -> None:
    """Read the shards back the way a run does, and compare all with what was packed."""
    from tqdm import tqdm

    shards = sorted(path for pattern in kind.patterns for path in folder.glob(pattern))
    packed = list_shards(folder, open_index(folder, shards, kind.scan, skip_damage=False))
    if not np.array_equal(packed.labels, files.labels):
        raise UserError(f"{folder}: the labels read back are not those that were written")
    for position in tqdm(range(len(checksums)), desc=f"verifying {folder.name}", unit="image", disable=None):
        if zlib.crc32(packed.read(position)) != checksums[position]:
            raise UserError(f"{packed.name(position)} reads back with another checksum; is the disk in order?")


if __name__ == "__main__":
    leave(main)
