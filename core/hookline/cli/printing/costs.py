"""Printing of the ledger: the cost of each plugin."""

from __future__ import annotations

from hookline.cli.output import Output
from hookline.engine.view import ConfigView
from hookline.trials.ledger import Ledger


def print_ledger(output: Output, ledger: Ledger, config: ConfigView) -> None:
    """Print the time of each hook of each plugin, and the import time of each plugin."""
    imports = {choice.table: choice.plugin.import_s for choice in config.plugins}
    if output.json:
        output.event("ledger", loop_s=ledger.loop_s, num_steps=ledger.num_steps, hooks=ledger.rows(), import_s=imports)
        return
    us_per_step = ledger.loop_s / max(ledger.num_steps, 1) * 1e6
    output.line(f"\nhooks, in addition to {ledger.loop_s:.3f} s of the loop itself ({us_per_step:.1f} us per step)")
    rows = [
        [
            str(row["table"]),
            str(row["hook"]),
            str(row["calls"]),
            f"{row['seconds']:.4f}",
            _number(row["us_per_step"]),
            _number(row["percent"]),
            _yes(row["synchronises"]),
            _yes(row["draws"]),
        ]
        for row in ledger.rows()
    ]
    output.table(["table", "hook", "calls", "seconds", "us/step", "% of loop", "synchronises", "draws"], rows)
    output.line("\nimports, seconds")
    for label, seconds in sorted(imports.items(), key=lambda item: -item[1]):
        output.line(f"{seconds:.3f}  {label}")


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else ""


def _yes(value: object) -> str:
    return "yes" if value else ""
