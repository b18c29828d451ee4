"""Loss ``transformers``: the loss that models of the package ``transformers`` have for their task.

Shapes: ``B`` examples in a batch, ``T`` tokens, ``C`` classes, or words of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, hookimpl
from hookline_plugins.losses.model_loss import ModelLoss
from hookline_plugins.metrics.accuracy import Accuracy
from hookline_plugins.metrics.answers import Answers
from hookline_plugins.models.transformers_model import Transformers

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Metric, RunView


IGNORED = -100
"""Class index of targets that do not count, in transformers as in torch."""


@dataclass
class TransformersLoss:
    """The loss that the model ``transformers`` computes: a mean over the targets that count, those other than -100.

    - ``sequence-classification`` and ``image-classification``: cross-entropy of logits ``[B, C]`` and classes ``[B]``;
      with floating-point targets ``[B, C]`` binary cross-entropy, and with a single output the mean squared error.
    - ``token-classification``: cross-entropy of logits ``[B, T, C]`` and classes ``[B, T]``.
    - ``causal-lm``: cross-entropy of logits ``[B, T, C]`` and the tokens ``[B, T]``, where each logit predicts the next
      token.

    It adds the metric ``accuracy`` where the targets are classes or tokens.
    """

    @hookimpl
    def build_loss(self, run: RunView) -> Callable[..., Tensor]:
        """Build the loss for the task of the model."""
        return ModelLoss(IGNORED, next_token=_Form.of(run).is_next).build_loss()

    @hookimpl
    def build_metrics(self, run: RunView) -> dict[str, Metric]:
        """Measure the share of correct classes or tokens."""
        form = _Form.of(run)
        return {} if form.is_regression else {"accuracy": _Accuracy(form)}


@dataclass(frozen=True)
class _Form:
    """What the outputs of a model are.

    Attributes:
        is_next: Whether the logits of a token predict the next token.
        is_regression: Whether they are numbers.
    """

    is_next: bool
    is_regression: bool

    @classmethod
    def of(cls, run: RunView) -> _Form:
        """Return the form of the outputs of the model of a run.

        Raises:
            ConfigError: If the model is not ``transformers``.
        """
        tasks = [member.instance.task for member in run.members if isinstance(member.instance, Transformers)]
        if not tasks:
            raise ConfigError("the loss transformers needs the model transformers", hint="set model=transformers")
        config: Any = run.unwrapped_model.config
        is_regression = config.problem_type == "regression" or config.num_labels == 1
        return cls(tasks[0] == "causal-lm", is_regression and tasks[0] == "sequence-classification")

    def aligned(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return each prediction with the target that it is for, with the classes in dimension 1."""
        if self.is_next:
            prediction, target = prediction[..., :-1, :], target[..., 1:]
        return prediction.movedim(-1, 1), target


class _Accuracy(Accuracy):
    """The share of correct classes or tokens."""

    def __init__(self, form: _Form) -> None:
        super().__init__()
        self._form = form

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one batch."""
        self._answers = Answers(is_binary=target.is_floating_point(), ignore_index=IGNORED)
        super().update(
            *((prediction, target) if target.is_floating_point() else self._form.aligned(prediction, target))
        )
