"""Callback ``samples``: text that a language model writes, at each evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from hookline import ContractError, hookimpl
from hookline.trained import only_watches
from hookline_plugins.data.text.source import NewTokens, Temperature, TopK

if TYPE_CHECKING:
    from hookline import RunView


@dataclass
class Samples:
    """Continuations of prompts by the model of the run, after each evaluation, for the data source ``corpus``.

    Each evaluation reports a table, which ``progress`` and ``json-lines`` show at once. Each evaluation draws with the
    same random numbers, which are not those of the training: a run has the same bits with and without this callback.
    The weights are those that are evaluated. All ranks write the same texts, because each may have a part of the model.

    The defaults are those of ``sample.py`` in https://github.com/karpathy/nanoGPT, with fewer tokens.
    """

    script = only_watches

    allows_fused_steps: ClassVar[bool] = True  # it does not follow steps

    prompts: Annotated[tuple[str, ...], Meta(min_length=1, description="texts to continue")] = ("\n",)
    new_tokens: NewTokens = 100
    temperature: Temperature = 0.8
    top_k: TopK = 200
    seed: Annotated[int, Meta(ge=0, description="seed of the tokens that are drawn")] = 0

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Prepare the prompts.

        Raises:
            ContractError: If the data have no tokenizer.
        """
        from hookline_plugins.data.text.tokens import tokenizer_from

        kept = run.data.kept
        if "tokenizer" not in kept:
            hint = "use data = 'corpus', or leave the callback out"
            raise ContractError("the callback samples needs the tokenizer of the data source corpus", hint=hint)
        self._tokenizer = tokenizer_from(kept["tokenizer"])
        self._context: int = kept["context"]

    @hookimpl
    def on_evaluation_end(self, run: RunView, metrics: Mapping[str, float]) -> None:  # noqa: ARG002 - see the hook
        """Continue the prompts, and report the texts."""
        from hookline_plugins.data.text.sampling import Sampling, continued

        sampling = Sampling(self.new_tokens, self.temperature, self.top_k)
        written = continued(run, self._tokenizer, self._context, self.prompts, sampling, self.seed)
        rows = [{"prompt": prompt, "text": text} for prompt, text in zip(self.prompts, written, strict=True)]
        run.report(f"samples at step {run.step}", rows)
