"""Write a small set as a folder of images: ``python -m dist_sparse.data.make fashion_mnist DEST [--data.root=DIR]``.

DEST gets ``train/<class>/`` and ``val/<class>/`` with PNG files, for ``--data.name=image_folder --data.root=DEST``. So what is
for folders of images (DALI, augmentation, shards, sizes that grow) can be tried without ImageNet. The folders' names begin with
the numbers of the classes, which therefore stay what they are. DEST appears whole or not at all.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dist_sparse.arguments import Parser
from dist_sparse.config.data import DataConfig
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small_set import SmallSet, Split, read_small
from dist_sparse.errors import UserError, one_line, refuse
from dist_sparse.files import atomic_folder
from dist_sparse.inputs import expand
from dist_sparse.leaving import leave

EXIT_INTERRUPTED = 130
SETS = tuple(name for name in SMALL_SETS if name != "noise")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder; 2 for a mistake of the user, 130 when interrupted."""
    parser = Parser(prog="python -m dist_sparse.data.make", description=__doc__)
    parser.add_argument("name", choices=SETS, help="which set, by its data.name")
    parser.add_argument("dest", type=expand, help="folder to make")
    parser.add_argument(
        "--data.root", dest="root", default="data", metavar="DIR", help="folder that holds the set (default data)"
    )
    download = ("true", "True", "false", "False")
    parser.add_argument(
        "--data.download", dest="download", choices=download, default="false", help="fetch the set if it is missing"
    )
    try:
        args = parser.parse_args(argv)
        make(DataConfig(name=args.name, root=args.root, download=args.download.lower() == "true"), args.dest)
    except UserError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def make(config: DataConfig, dest: Path) -> None:
    """Write the small set ``config.name`` to the new folder ``dest``.

    Raises:
        UserError: the set is not there, ``dest`` is, or it cannot be written.
    """
    if os.path.lexists(dest):
        raise UserError(f"{one_line(dest)} is there already; name a new folder, or remove it")
    small_set = SMALL_SETS[config.name]
    splits = read_small(config, small_set)
    folders = list(_folder_names(small_set, expand(config.root)))
    try:
        with atomic_folder(dest) as folder:
            for name, split in zip(("train", "val"), splits, strict=True):
                _write(split, folder / name, folders)
    except OSError as error:
        raise UserError(f"{one_line(dest)} cannot be written: {error.strerror or error}") from error


def _folder_names(small_set: SmallSet, root: Path) -> Iterator[str]:
    """A folder's name for each class, in whose order the classes are numbered."""
    names, width = small_set.class_names(root), len(str(small_set.classes - 1))
    for number in range(small_set.classes):
        name = "".join(letter if letter.isalnum() else "_" for letter in names[number]) if names else ""
        plain = f"{number:0{width}d}"
        yield plain if name in ("", plain) else f"{plain}-{name}"


def _write(split: Split, folder: Path, classes: Sequence[str]) -> None:
    """A split's images, each named by its position."""
    from PIL import Image
    from tqdm import tqdm

    for name in classes:
        (folder / name).mkdir(parents=True)
    labels: list[int] = split.labels.tolist()
    width = len(str(len(labels) - 1))
    images = split.images.permute(0, 2, 3, 1).squeeze(-1).numpy()
    for position in tqdm(range(len(labels)), desc=f"writing {folder.name}", unit="image", disable=None):
        path = folder / classes[labels[position]] / f"{position:0{width}d}.png"
        Image.fromarray(images[position]).save(path)


if __name__ == "__main__":
    leave(main)
