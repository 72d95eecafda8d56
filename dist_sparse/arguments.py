"""Command lines of the commands beside training."""

import argparse
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NoReturn

from dist_sparse.errors import UserError


class Parser(argparse.ArgumentParser):
    """Python's parser, for which a mistake is a UserError as everywhere else, and an option is not to be shortened."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **keywords})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{' '.join(message.split())}; --help tells what is accepted")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if any(unicodedata.category(each) in ("Cc", "Cs") for each in word):  # bytes that are no UTF-8 come as surrogates
                raise UserError(f"{ascii(word)[:60]} is not understood: should be UTF-8 text on one line")
        return super().parse_known_args(words, namespace)
