"""Process of ``hookline prove-resume``: ``python -m hookline.cli.proof_child``."""

from __future__ import annotations

from pathlib import Path

from hookline.cli.arguments import added_callbacks, chosen_catalog, load_words
from hookline.cli.output import Output
from hookline.config.plugins.catalog import Catalog
from hookline.config.run_config import RunConfig
from hookline.trials.proof.driver import ORIGIN
from hookline.trials.proof.process import carry_out
from hookline.trials.proof.witness import Order


def order_catalog(order: Order) -> Catalog:
    """Return the plugins that the run of an order may use."""
    return chosen_catalog(order.files, order.allow, order.deny)


def order_config(order: Order, catalog: Catalog) -> RunConfig:
    """Return the config of the run of an order: the one ``train`` would use, with the values that a proof sets."""
    added = added_callbacks(Output(quiet=True), catalog, is_saved=True)
    config = load_words(order.words, catalog, added)
    values = catalog.default("proof")(config, Path(order.parent), order.every_steps)
    return load_words(order.words, catalog, added, switches={ORIGIN: {**values, "train.max_time_s": 0.0}})


if __name__ == "__main__":
    carry_out(order_catalog, order_config)
