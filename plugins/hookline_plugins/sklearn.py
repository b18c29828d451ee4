"""scikit-learn estimators that train with Hookline: ``HooklineRegressor`` and ``HooklineClassifier``.

They need the extra ``sklearn``. Shapes: ``N`` rows, ``I`` features, ``O`` targets, ``C`` classes.

>>> import numpy as np
>>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
>>> HooklineRegressor(epochs=50).fit(x, 2 * x[:, 0]).score(x, 2 * x[:, 0]) > 0.99
True
"""

from __future__ import annotations

import copy
import numbers
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import hookline

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"the estimators need scikit-learn 1.6 or later: pip install 'hookline[sklearn]' ({error})"
    ) from error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

_PREDICTED_ROWS = 2**14
"""Number of rows that go through the model at once: enough for its kernels, and little memory."""

_DTYPES = (np.float64, np.float32)
"""Dtypes that inputs keep, as in scikit-learn's own networks; all others become the first."""


class _Estimator(BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """The part that both estimators share."""

    _task = ""
    _loss = ""

    def __init__(  # noqa: PLR0913 - each is a parameter to search over
        self,
        model: Any = "mlp",
        loss: Any = None,
        optimizer: Any = "adam",
        *,
        lr: float | None = 0.01,
        epochs: int = 100,
        batch_size: int | str = 32,
        validation: float = 0.0,
        callbacks: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        random_state: Any = 0,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.lr, self.epochs, self.batch_size, self.validation = lr, epochs, batch_size, validation
        self.callbacks, self.overrides, self.random_state = callbacks, overrides, random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 - as in scikit-learn
        """Train a new model on inputs ``[N, I]`` and targets; return the estimator.

        Raises:
            ValueError: If the arrays cannot be used.
            HooklineError: If the parameters do not make a run.
        """
        inputs, targets = self._checked(X, y)
        data = hookline.from_arrays(inputs, targets, validation=self.validation, task=self._task)
        config, plugins = self._run(inputs.dtype.name)
        result = hookline.train(config, self.overrides or {}, plugins={"data": data, **plugins})
        for text in result.warnings:
            warnings.warn(text, UserWarning, stacklevel=2)
        self.module_ = result.model.cpu().eval()
        self.history_, self.n_iter_ = [dict(metrics) for metrics in result.history], result.epochs
        return self

    def _checked(self, inputs: ArrayLike, targets: ArrayLike) -> tuple[Any, Any]:
        raise NotImplementedError

    def _run(self, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the config of a run, and its objects by table."""
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        config: dict[str, Any] = {
            # Evaluating the whole training split after each epoch would take a third of the time.
            "train": {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "seed": int(seed),
                "dtype": dtype,
                "evaluate": ["validation"],
            },
            "callbacks": {},
        }
        plugins: dict[str, Any] = {}
        parts = {"model": self.model, "loss": self._loss if self.loss is None else self.loss}
        parts |= {"optimizer": self.optimizer}
        parts |= {f"callbacks.{name}": part for name, part in (self.callbacks or {}).items()}
        for table, part in parts.items():
            kind, _, name = table.partition(".")
            if isinstance(part, str):
                part = {"use": part}  # noqa: PLW2901 - the other form of the same
            if isinstance(part, Mapping):
                (config["callbacks"] if name else config)[name or kind] = dict(part)
            else:
                plugins[table] = copy.deepcopy(part)  # so that fitting leaves the parameter as it is
        if self.lr is not None:
            config["optimizer"] = {"lr": self.lr, **config.get("optimizer", {})}
        return config, plugins

    def _output(self, inputs: ArrayLike) -> Tensor:
        import torch

        check_is_fitted(self)
        checked = validate_data(self, inputs, reset=False, dtype=_DTYPES)
        dtype = next((weight.dtype for weight in self.module_.parameters()), None)
        rows = torch.tensor(checked, dtype=dtype)
        parts = (rows[first : first + _PREDICTED_ROWS] for first in range(0, len(rows), _PREDICTED_ROWS))
        with torch.no_grad():
            return torch.cat([self.module_(part) for part in parts])


class HooklineRegressor(RegressorMixin, _Estimator):  # type: ignore[misc] # scikit-learn has no types
    """Regression with any model, loss and optimizer of Hookline.

    A table of a config is given as the name of a plugin, as a mapping with its options, such as
    ``{"use": "mlp", "hidden": [32]}``, or as an object: a module (which is copied), a class or a function. Nothing is
    scaled: put a ``StandardScaler`` before the estimator in a ``Pipeline``. The model has the dtype of the inputs,
    float64 or float32, unless ``overrides`` sets ``train.dtype``. There are no sample weights: with batches, an example
    that weighs twice as much is not the same as one that is there twice.

    Args:
        model: The table ``model``.
        loss: The table ``loss``; None for ``mse``, or ``cross-entropy`` in a classifier.
        optimizer: The table ``optimizer``.
        lr: Learning rate, unless ``optimizer`` has one; None for the default of the optimizer.
        epochs: Number of epochs.
        batch_size: Number of examples in a batch, or ``all``.
        validation: Share of the rows to evaluate after each epoch, for callbacks such as ``early-stopping``.
        callbacks: Callbacks by name, each as a mapping of its options or as an object.
        overrides: Values by dotted key that win over all else, ``{"train.device": "cpu"}``.
        random_state: Seed of the weights and of the order of the examples; None for a random one.

    Attributes:
        module_: The trained model, on the CPU.
        history_: The metrics of each epoch.
        n_iter_: Number of epochs trained.
        n_features_in_: Number of features.
        n_outputs_: Number of targets.
    """

    _task = "regression"
    _loss = "mse"

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 - as in scikit-learn
        """Return the predictions ``[N]``, or ``[N, O]`` if the targets had that shape."""
        output = self._output(X).numpy()
        return output[:, 0] if self._is_flat else output

    def _checked(self, inputs: ArrayLike, targets: ArrayLike) -> tuple[Any, Any]:
        x, y = validate_data(self, inputs, targets, dtype=_DTYPES, multi_output=True, y_numeric=True)
        self._is_flat, self.n_outputs_ = y.ndim == 1, 1 if y.ndim == 1 else y.shape[1]
        return x, y.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        """Return the properties of the estimator that scikit-learn asks for."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class HooklineClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc] # scikit-learn has no types
    """Classification with any model and optimizer of Hookline.

    The parameters are those of ``HooklineRegressor``.

    Attributes:
        classes_: The labels, sorted.
        module_: The trained model, on the CPU.
        history_: The metrics of each epoch.
        n_iter_: Number of epochs trained.
        n_features_in_: Number of features.
    """

    _task = "classification"
    _loss = "cross-entropy"

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 - as in scikit-learn
        """Return the probability of each class, ``[N, C]``, in the order of ``classes_``."""
        return self._output(X).softmax(dim=1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 - as above
        """Return the most probable label of each row, ``[N]``."""
        indices = self._output(X).argmax(dim=1).numpy()
        labels: NDArray[Any] = self.classes_[indices]
        return labels

    def _checked(self, inputs: ArrayLike, targets: ArrayLike) -> tuple[Any, Any]:
        x, y = validate_data(self, inputs, targets, dtype=_DTYPES)
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"a classifier needs at least two classes, but the targets have one class: {self.classes_}"
            )
        return x, indices
