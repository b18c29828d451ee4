"""Process of ``hookline prove-resume``: ``python -m hookline.cli.proof_child``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from hookline.cli.arguments import added_callbacks, chosen_catalog, load_words
from hookline.cli.output import Output
from hookline.cli.ranks import joined, leave, parallel_of_command
from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.ranks.launching import launch
from hookline.trials.proof.driver import ORIGIN
from hookline.trials.proof.process import carry_out
from hookline.trials.proof.witness import Order

MODULE = "hookline.cli.proof_child"
"""Name of this module."""


def order_catalog(order: Order) -> Catalog:
    """Return the plugins that the run of an order may use."""
    return chosen_catalog(order.files, order.allow, order.deny)


def order_config(order: Order, catalog: Catalog) -> RunConfig:
    """Return the config of the run of an order: the one ``train`` would use, with the values that a proof sets."""
    added = added_callbacks(Output(quiet=True), catalog, is_saved=True) | parallel_of_command(catalog, order.num_ranks)
    config = load_words(order.words, catalog, added)
    values = catalog.default("proof")(config, Path(order.parent), order.every_steps)
    return load_words(order.words, catalog, added, switches={ORIGIN: {**values, "train.max_time_s": 0.0}})


def main(words: Sequence[str]) -> None:
    """Carry out the order on standard input, or in the file that is named, by several ranks if it says so."""
    data = Path(words[0]).read_bytes() if words else sys.stdin.buffer.read()
    order = msgspec.json.decode(data, type=Order)
    if order.num_ranks > 1 and order.role != "look" and not words:
        path = Path(order.reports).with_suffix(".order")
        path.write_bytes(data)
        sys.exit(launch(order.num_ranks, [str(path)], MODULE))
    try:
        carry_out(order, order_catalog, order_config, partial(joined, Output(quiet=True)))
    except Exception:  # noqa: BLE001 - it is printed
        traceback.print_exc()
        leave(1)


if __name__ == "__main__":
    main(sys.argv[1:])
