"""The scikit-learn estimators: scikit-learn's own checks, and their place in its pipelines and searches."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hookline
from pages import blocks
from support import ROOT

sklearn = pytest.importorskip("sklearn", reason="the extra sklearn is not installed: pip install 'hookline[sklearn]'")

from sklearn.base import clone  # noqa: E402 - only where it is installed
from sklearn.datasets import load_diabetes, load_iris  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.model_selection import PredefinedSplit, cross_val_predict, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from hookline.trials import cross_validate  # noqa: E402
from hookline_plugins.sklearn import HooklineClassifier, HooklineRegressor  # noqa: E402

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.standard_normal((60, 3))
NUMBERS = INPUTS @ [1.0, 2.0, 3.0]
LABELS = np.where(NUMBERS > 0, "up", "down")


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Use one thread: models this small only wait for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@parametrize_with_checks([HooklineRegressor(epochs=15, lr=0.03), HooklineClassifier(epochs=15, lr=0.03)])  # type: ignore[untyped-decorator] # scikit-learn has no types
def test_an_estimator_passes_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_an_estimator_is_the_run_of_its_parameters() -> None:
    fitted = HooklineRegressor("linear", "l1", "sgd", lr=0.1, epochs=3, batch_size=7, random_state=5).fit(
        INPUTS, NUMBERS
    )
    config = {
        "train": {"epochs": 3, "batch_size": 7, "seed": 5, "dtype": "float64"},
        "model": "linear",
        "loss": "l1",
        "optimizer": {"use": "sgd", "lr": 0.1},
    }
    result = hookline.train(config, plugins={"data": hookline.from_arrays(INPUTS, NUMBERS)})
    assert np.array_equal(fitted.predict(INPUTS), result.predict(INPUTS))
    assert fitted.n_iter_ == 3


def test_probabilities_are_those_of_the_logits_and_labels_the_most_probable() -> None:
    fitted = HooklineClassifier("linear", epochs=2).fit(INPUTS, LABELS)
    layer: Any = fitted.module_
    odds = np.exp(INPUTS @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy())
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(INPUTS), expected, rtol=1e-5)
    assert fitted.predict(INPUTS).tolist() == [["down", "up"][index] for index in expected.argmax(axis=1)]


def test_callbacks_and_overrides_reach_the_run() -> None:
    class Stop:
        @hookline.hookimpl
        def on_epoch_end(self, run: hookline.RunView) -> None:
            if run.epoch == 2:
                run.request_stop("enough")

    stopped = HooklineRegressor(epochs=9, validation=0.2, callbacks={"stop": Stop()}).fit(INPUTS, NUMBERS)
    assert (stopped.n_iter_, [*stopped.history_[0]]) == (2, ["train/running_loss", "validation/loss"])
    patient = {"early-stopping": {"monitor": "train/running_loss", "patience": 1, "min_delta": 1e9}}
    assert HooklineRegressor(epochs=9, callbacks=patient).fit(INPUTS, NUMBERS).n_iter_ < 9
    rough = HooklineRegressor(epochs=1, overrides={"train.dtype": "float32"}).fit(INPUTS, NUMBERS)
    assert rough.predict(INPUTS).dtype == np.float32


def test_a_module_is_copied_so_that_each_fit_begins_with_its_weights() -> None:
    net = nn.Linear(3, 1)
    weight = net.weight.detach().clone()
    estimator = HooklineRegressor(net, epochs=1)
    first, second = (estimator.fit(INPUTS, NUMBERS).predict(INPUTS) for _ in range(2))
    assert torch.equal(net.weight, weight)
    assert np.array_equal(first, second)


def test_an_estimator_is_cloned_pickled_and_cross_validated() -> None:
    fitted = HooklineClassifier({"use": "mlp", "hidden": [8]}, epochs=20).fit(INPUTS, LABELS)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(INPUTS), fitted.predict(INPUTS))
    with pytest.raises(NotFittedError):
        clone(fitted).predict(INPUTS)
    assert cross_val_score(fitted, INPUTS, LABELS, cv=3).mean() > 0.8


def test_wrong_parameters_are_errors_of_the_config() -> None:
    with pytest.raises(hookline.ConfigError, match=r"'optimizer\.lr'"):
        HooklineRegressor(lr=-1.0).fit(INPUTS, NUMBERS)


def test_the_search_of_the_page_finds_the_larger_model(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (b for b in blocks(ROOT / "docs/how-to/train-on-arrays.md") if b.file == "search.py")
    exec(compile(block.text, "search.py", "exec"), {})
    assert capsys.readouterr().out == "[32, 32] True\n"


def test_cross_validation_agrees_with_that_of_scikit_learn_on_the_same_folds() -> None:
    """On real data, for models whose training has one optimum, to the tolerance to which both find it."""
    train = {"batch_size": "all", "dtype": "float64", "epochs": 10, "evaluate": []}
    optimizer = {"use": "lbfgs", "tolerance_grad": 1e-13, "tolerance_change": 1e-16}
    config: dict[str, Any] = {"train": train, "model": {"use": "linear"}, "optimizer": optimizer}

    x, y = load_diabetes(return_X_y=True)
    data = hookline.from_arrays(x, y, standardize=True, standardize_target=True)
    newton = {"optimizer": optimizer | {"line_search_fn": "none"}}  # a line search is accurate to half of the digits
    found = cross_validate(config | newton, plugins={"data": data})
    folds = PredefinedSplit(np.array(found.predictions["fold"]) - 1)
    theirs = cross_val_predict(LinearRegression(), x, y, cv=folds)
    np.testing.assert_allclose(found.predictions["predicted_0"], theirs, rtol=1e-6)
    errors = (np.array(found.predictions["predicted_0"]) - y) ** 2
    ours = [errors[np.array(found.predictions["fold"]) == fold.fold.number].mean() for fold in found.folds]
    squared = cross_val_score(LinearRegression(), x, y, cv=folds, scoring="neg_mean_squared_error")
    np.testing.assert_allclose(ours, -squared, rtol=1e-7)

    x, y = load_iris(return_X_y=True)
    x, y = x[50:, :2], y[50:]  # these two classes overlap, so that the weights have an optimum
    found = cross_validate(
        config | {"loss": {"use": "cross-entropy"}}, plugins={"data": hookline.from_arrays(x, y, standardize=True)}
    )
    folds = PredefinedSplit(np.array(found.predictions["fold"]) - 1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000))
    for name, scoring, sign in (("accuracy", "accuracy", 1), ("loss", "neg_log_loss", -1)):
        scores = sign * cross_val_score(model, x, y, cv=folds, scoring=scoring)
        np.testing.assert_allclose([fold.metrics[name] for fold in found.folds], scores, rtol=1e-6)
