"""Splits of tables and arrays: by class, by group, by time, by a column, from several files."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hookline
from hookline import ConfigError, DataError, DataSource, Run, load_config
from hookline.trained import load_trained
from hookline_plugins.data.arrays.source import Arrays
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import Key, class_counts, split_rows
from hookline_plugins.data.tables.table import Table

FRACTIONS = [(0.8, 0.2), (0.7, 0.2, 0.1), (0.6, 0.1, 0.3), (0.5, 0.25, 0.25)]


def split_codes(codes: list[int], seed: int = 0, **options: Any) -> list[list[int]]:
    """Return the codes of the rows of each split, and check that each row is in one split, in the order of the file."""
    table = Table(Path("t.csv"), "y", split_seed=seed, **options)
    faults = Faults(Path("t.csv"))
    key = Key("k", torch.tensor(codes), [f"v{code}" for code in range(max(codes) + 1)])
    splits = split_rows(len(codes), table, key, faults)
    faults.check()
    assert sorted(torch.cat(list(splits.values())).tolist()) == list(range(len(codes)))
    assert all(rows.equal(rows.sort().values) for rows in splits.values())
    return [[codes[row] for row in rows.tolist()] for rows in splits.values()]


def codes_of(sizes: list[int], seed: int = 0) -> list[int]:
    codes = [code for code, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(codes)
    return codes


# ---- by class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_each_class_has_its_share_of_each_split_to_less_than_one_row(fractions: tuple[float, ...]) -> None:
    for seed in range(40):
        sizes = [random.Random(seed + k).randint(3, 50) for k in range(1 + seed % 8)]
        for fraction, codes in zip(
            fractions, split_codes(codes_of(sizes, seed), seed, stratify="k", split=fractions), strict=True
        ):
            assert all(abs(codes.count(code) - size * fraction) < 1 for code, size in enumerate(sizes))


def test_a_split_by_class_has_the_size_of_a_random_one() -> None:
    # By hand: 100 classes of 3 rows have 2.4 in training, so 2, and 40 of them a third one; the large one has 560.
    train, validation = split_codes(codes_of([3] * 100 + [700]), stratify="k", split=(0.8, 0.2))
    assert (len(train), len(validation)) == (800, 200)
    assert train.count(100) == 560
    assert Counter(Counter(code for code in train if code < 100).values()) == {2: 60, 3: 40}


def test_counts_of_classes_by_hand() -> None:
    counts = class_counts(torch.tensor([10, 5, 5]), (0.7, 0.2, 0.1), [14, 4, 2])
    # 7, 3.5 and 3.5; 2, 1 and 1; 1, 0.5 and 0.5.
    assert counts.tolist() == [[7, 2, 1], [4, 1, 0], [3, 1, 1]]


def test_a_split_by_class_depends_on_its_seed_alone() -> None:
    def rows(seed: int) -> list[list[int]]:
        table = Table(Path("t.csv"), "y", split=(0.8, 0.2), stratify="k", split_seed=seed)
        key = Key("k", torch.arange(40) % 4, ["a", "b", "c", "d"])
        return [part.tolist() for part in split_rows(40, table, key, Faults(None)).values()]

    torch.manual_seed(1)
    first = rows(0)
    torch.manual_seed(2)
    assert rows(0) == first != rows(1)


def test_the_guarantee_is_that_of_scikit_learn() -> None:
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    sizes = [50, 23, 7, 3]
    codes = np.array(codes_of(sizes))
    train, test = next(selection.StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(codes, codes))
    theirs = [np.bincount(codes[rows], minlength=4) for rows in (train, test)]
    ours = [np.bincount(part) for part in split_codes(codes.tolist(), stratify="k", split=(0.8, 0.2))]
    assert [int(part.sum()) for part in ours] == [len(train), len(test)]
    assert all(abs(one - other).max() <= 1 for one, other in zip(ours, theirs, strict=True))


# ---- folds -----------------------------------------------------------------------------------------------------------


def folds_of(codes: list[int], count: int, seed: int = 0, **options: Any) -> list[list[int]]:
    """Return the rows that each fold leaves out; check that all others are in use, and that test rows stay."""
    key = Key("k", torch.tensor(codes), [f"v{code}" for code in range(max(codes) + 1)])
    found, tests = [], set()
    for number in range(1, count + 1):
        table = Table(Path("t.csv"), "y", fold=f"{number}/{count}", fold_seed=seed, **options)
        faults = Faults(None)
        rows = split_rows(len(codes), table, key, faults)
        faults.check()
        assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(len(codes)))
        found.append(rows["fold"].tolist())
        tests.add(tuple(rows["test"].tolist()) if "test" in rows else ())
    assert len(tests) == 1, "each fold leaves the same rows for the test"
    together = sorted(row for fold in found for row in fold)
    assert together == sorted({*range(len(codes))} - {*tests.pop()}), "each row is in one fold"
    return found


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_each_class_has_its_share_of_each_fold_to_less_than_one_row(count: int) -> None:
    for seed in range(10):
        sizes = [random.Random(seed + k).randint(count, 50) for k in range(1 + seed % 5)]
        codes = codes_of(sizes, seed)
        folds = folds_of(codes, count, seed, stratify="k")
        assert max(map(len, folds)) - min(map(len, folds)) <= 1
        for fold in folds:
            found = Counter(codes[row] for row in fold)
            assert all(abs(found[code] - size / count) < 1 for code, size in enumerate(sizes))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_group_is_in_two_folds_and_no_fold_is_empty(count: int) -> None:
    for seed in range(20):
        # As many groups as folds, one of them with most of the rows.
        codes = codes_of([40, *([1] * (count - 1))], seed)
        folds = folds_of(codes, count, seed, group_by="k")
        assert sorted(map(len, folds)) == [*([1] * (count - 1)), 40]
        codes = codes_of([random.Random(seed + k).randint(1, 9) for k in range(30)], seed)
        groups = [{codes[row] for row in fold} for fold in folds_of(codes, count, seed, group_by="k")]
        assert sum(map(len, groups)) == 30


def test_folds_at_random_have_equal_sizes_and_depend_on_their_seed() -> None:
    first, other = (folds_of([0] * 23, 5, seed) for seed in (0, 1))
    assert sorted(map(len, first)) == [4, 4, 5, 5, 5]
    assert first != other
    assert folds_of([0] * 23, 5, split=(0.5, 0.5)) == first, "the rows of train and validation are in the folds"
    assert [len(fold) for fold in folds_of([0] * 20, 2, split=(0.6, 0.2, 0.2))] == [8, 8]


def test_the_other_folds_are_split_as_all_rows_would_be() -> None:
    table = Table(Path("t.csv"), "y", split=(0.6, 0.2, 0.2), stratify="k", fold="2/4")
    codes = torch.arange(100) % 5
    rows = split_rows(100, table, Key("k", codes, list("abcde")), Faults(None))
    # By hand: of 100 rows 20 are for the test and a quarter of the others is left out; of 60, three quarters train.
    assert {name: len(own) for name, own in rows.items()} == {"train": 45, "validation": 15, "test": 20, "fold": 20}
    assert all(len({*codes[own].bincount().tolist()}) == 1 for own in rows.values())


def test_rows_that_a_column_gives_to_another_split_stay_there() -> None:
    table = Table(Path("t.csv"), "y", split_column="k", fold="1/2")
    key = Key("k", torch.tensor([0, 0, 0, 0, 1, 2]), ["train", "val", "north"])
    rows = split_rows(6, table, key, Faults(None))
    assert (rows["validation"].tolist(), rows["north"].tolist()) == ([4], [5])
    assert sorted([*rows["train"].tolist(), *rows["fold"].tolist()]) == [0, 1, 2, 3]
    faults = Faults(None)
    split_rows(6, table, key._replace(values=["train", "val", "fold"]), faults)
    with pytest.raises(DataError, match="a split is called 'fold' already"):
        faults.check()


@pytest.mark.parametrize(
    ("codes", "count", "options", "message"),
    [
        ([0, 0, 0], 4, {}, "4 folds need a row each, and there are 3 rows for them"),
        ([0] * 9 + [1] * 4, 5, {"stratify": "k"}, "has 1 value with fewer rows than the 5 folds: 'v1' (4)"),
        ([0] * 9 + [1] * 4, 3, {"group_by": "k"}, "the column 'k' has 2 values, fewer than the 3 folds"),
    ],
)
def test_too_few_rows_for_the_folds_say_what_to_do(
    codes: list[int], count: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        folds_of(codes, count, **options)
    [fault] = caught.value.faults
    assert message in fault.message
    assert "ask for fewer folds" in str(fault.hint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": "6/5"}, "`fold` is '1/N' to 'N/N' with at least 2 folds, not '6/5'"),
        ({"fold": "1/1"}, "with at least 2 folds"),
        ({"fold": "1/5", "order_by": "day", "split": (0.8, 0.2)}, "would be predicted by a model of later rows"),
        ({"fold": "1/5", "files": {"fold": Path("v.csv")}}, "but `fold` takes it from `path`"),
    ],
)
def test_folds_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table(Path("t.csv"), "y", **options)


# ---- by group and by time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_no_group_is_in_two_splits_and_the_sizes_come_near_the_fractions(fractions: tuple[float, ...]) -> None:
    for seed in range(40):
        sizes = [random.Random(seed + k).randint(1, 9) for k in range(30)]
        parts = split_codes(codes_of(sizes, seed), seed, group_by="k", split=fractions)
        assert all(set(one).isdisjoint(other) for one, other in itertools.combinations(parts, 2))
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * sum(sizes)) <= max(sizes)


def test_groups_of_one_row_are_split_exactly_and_at_random() -> None:
    codes = codes_of([1] * 200)
    first, other = (split_codes(codes, seed, group_by="k", split=(0.7, 0.2, 0.1)) for seed in (0, 1))
    assert [len(part) for part in first] == [140, 40, 20]
    assert first != other


def test_a_large_group_may_be_in_any_split_that_takes_it() -> None:
    codes = codes_of([40] + [1] * 160)
    places = {
        next(i for i, part in enumerate(split_codes(codes, seed, group_by="k", split=(0.7, 0.2, 0.1))) if 0 in part)
        for seed in range(20)
    }
    assert places == {0, 1}


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_a_split_by_time_trains_on_the_past(fractions: tuple[float, ...]) -> None:
    for seed in range(20):
        parts = split_codes(codes_of([1 + seed % 3] * 30, seed), order_by="k", split=fractions)
        assert all(max(one) < min(other) for one, other in itertools.pairwise(parts))
        assert [len(part) for part in parts] == pytest.approx([90 * f / 3 * (1 + seed % 3) for f in fractions], abs=3)


def test_days_are_cut_whole_and_as_near_to_the_fractions_as_possible() -> None:
    # Days of 5, 3, 1 and 1 rows: the ends 5, 8, 9, 10 lie nearest to 7 (8) and 9 (9).
    assert split_codes([0] * 5 + [1] * 3 + [2, 3], order_by="k", split=(0.7, 0.2, 0.1)) == [[0] * 5 + [1] * 3, [2], [3]]
    # The nearest end to 6 is 8 of both cuts; each split has a day.
    assert split_codes([0] * 8 + [1, 2], order_by="k", split=(0.6, 0.2, 0.2)) == [[0] * 8, [1], [2]]


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str, **options: Any) -> DataSource:
    path = folder / "t.csv"
    path.write_text(text)
    return Table(path, "y", **options).build_data()


def xs(data: DataSource) -> dict[str, list[float]]:
    """Return the first feature of the rows of each split."""
    return {name: part.tensors[0][:, 0].tolist() for name, part in data.splits().items()}  # type: ignore[attr-defined]


def test_a_column_names_the_splits(tmp_path: Path) -> None:
    text = "x,part,y\n1,train,0\n2,val,0\n3,Training,0\n4,north,0\n5,TEST,0\n6,dev,0\n7,South West,0\n"
    data = table(tmp_path, text, split_column="part")
    assert xs(data) == {"train": [1, 3], "validation": [2, 6], "test": [5], "South West": [7], "north": [4]}
    assert data.feature_names == ("x",)


def test_a_column_that_decides_is_a_feature_only_if_an_option_lists_it(tmp_path: Path) -> None:
    text = "x,day,y\n" + "".join(f"{n},{10 - n},{n % 2}\n" for n in range(10))
    split: dict[str, Any] = {"split": (0.8, 0.2), "order_by": "day"}
    data = table(tmp_path, text, **split)
    assert (data.feature_names, xs(data)["validation"]) == (("x",), [0, 1])
    assert table(tmp_path, text, **split, features=("x", "day")).feature_names == ("x", "day")
    assert table(tmp_path, text, **split, one_hot=("day",)).in_features == 11
    assert table(tmp_path, text, split=(0.8, 0.2), stratify="y").feature_names == ("x", "day")


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        (["9", "10", "11"], {}),
        (["2024-02-01", "2024-02-01 10:00:00", "2024-10-01T00:00"], {}),
        (["31.01.2024", "01.02.2024", "01.03.2024"], {"dates": {"t": "%d.%m.%Y"}, "features": ("x",)}),
        (["1,5", "2,25", "10,0"], {"decimal": ",", "delimiter": ";"}),
    ],
)
def test_numbers_and_dates_are_ordered_as_such(tmp_path: Path, cells: list[str], options: dict[str, Any]) -> None:
    mark = options.get("delimiter", ",")
    rows = [mark.join([str(number), cell, "0"]) for number, cell in enumerate(cells)]
    text = "\n".join([mark.join("xty"), rows[2], rows[0], rows[1], ""])
    assert xs(table(tmp_path, text, split=(0.4, 0.3, 0.3), order_by="t", **options)) == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }


def test_rows_that_are_dropped_take_no_part_in_the_splits(tmp_path: Path) -> None:
    text = "x,who,y\n1,a,0\n,a,0\n3,,0\n4,b,0\n5,b,\n6,c,0\n"
    data = table(tmp_path, text, split=(0.67, 0.33), group_by="who", missing="drop")
    assert sorted(x for part in xs(data).values() for x in part) == [1, 4, 6]


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_rows_without_a_target_take_no_part_in_a_split_by_it(tmp_path: Path, missing: str) -> None:
    text = "x,y\n" + "".join(f"{n},{'' if n % 5 == 0 else n % 2}\n" for n in range(20))
    data = table(tmp_path, text, split=(0.5, 0.5), stratify="y", task="classification", missing=missing)
    assert [part.tensors[1].bincount().tolist() for part in data.splits().values()] == [[4, 4], [4, 4]]  # type: ignore[attr-defined]
    with pytest.raises(DataError) as caught:
        table(tmp_path, text, split=(0.5, 0.5), stratify="y", task="classification")
    assert len(caught.value.faults) == 4  # each empty cell once


def test_further_files_are_read_like_the_first(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("y,x,k,extra\n1,10,b,?\n0,a lot,c,?\n")
    (tmp_path / "n.csv").write_text("x,k,y\n20,a,1\n")
    files = {"validation": tmp_path / "v.csv", "north": tmp_path / "n.csv"}
    text = "x,k,y\n1,a,0\n3,b,1\n"
    with pytest.raises(DataError) as caught:
        table(tmp_path, text, files=files, one_hot=("k",))
    (fault,) = caught.value.faults
    assert "'a lot' is not a number" in fault.message
    assert (fault.location.source, fault.location.line) == (str(tmp_path / "v.csv"), 3)  # type: ignore[union-attr]
    (tmp_path / "v.csv").write_text("y,x,k,extra\n1,10,b,?\n0,7,c,?\n")
    data = table(tmp_path, text, files=files, one_hot=("k",), task="classification", standardize=True)
    assert data.feature_names == ("x", "k=a", "k=b", "k=c")
    # The mean of the training rows is 2, their deviation 1.
    assert xs(data) == {"train": [-1, 1], "validation": [8, 5], "north": [18]}
    assert data.validation.tensors[1].tolist() == [1, 0]  # type: ignore[union-attr]


def test_a_file_for_the_test_stands_beside_shares_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("x,y\n" + "".join(f"{n},0\n" for n in range(10, 13)))
    text = "x,who,y\n" + "".join(f"{n},{n // 2},0\n" for n in range(10))
    files = {"test": tmp_path / "test.csv"}
    found = xs(table(tmp_path, text, split=(0.8, 0.2), group_by="who", files=files))
    assert found["test"] == [10, 11, 12]
    assert sorted(found["train"] + found["validation"]) == list(range(10))
    assert len(found["validation"]) == 2
    assert found["validation"][0] // 2 == found["validation"][1] // 2


def test_a_run_evaluates_every_split_and_predicts_without_their_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "x,part,y\n" + "".join(f"{n},{('train', 'val', 'north')[n % 3]},{2 * n}\n" for n in range(30))
    )
    config = {
        "train": {"epochs": 1, "evaluate": "all"},
        "data": {"use": "csv", "path": str(tmp_path / "t.csv"), "target": "y", "split_column": "part"},
        "model": {"use": "linear", "start": "least-squares"},
        "callbacks": {"run-folder": {"parent": str(tmp_path), "name": "run"}},
    }
    metrics = hookline.train(config).metrics
    assert {name.partition("/")[0] for name in metrics} == {"train", "validation", "north"}
    (tmp_path / "new.csv").write_text("x\n100\n")
    (columns,) = load_trained(next(tmp_path.glob("*run*"))).predictions(tmp_path / "new.csv")
    assert columns["predicted_y"] == pytest.approx([200], abs=0.1)


# ---- arrays ----------------------------------------------------------------------------------------------------------

X, NUM = np.arange(12, dtype=np.float32).reshape(12, 1), 12


def arrays(folder: Path, *, is_mapped: bool, key: Any, **options: Any) -> dict[str, list[float]]:
    path = folder / ("arrays" if is_mapped else "arrays.npz")
    named: dict[str, Any] = {"inputs": X, "targets": X[:, 0] % 3, "key": np.array(key)}
    if is_mapped:
        path.mkdir(exist_ok=True)
        for name, array in named.items():
            np.save(path / f"{name}.npy", array)
    else:
        np.savez(path, **named)
    data = Arrays(path, memory_map=is_mapped, **options).build_data()
    return {name: [float(part[i][0]) for i in range(len(part))] for name, part in data.splits().items()}  # type: ignore[arg-type] # map-style


@pytest.mark.parametrize("is_mapped", [False, True])
def test_arrays_are_split_by_an_array_beside_them(tmp_path: Path, *, is_mapped: bool) -> None:
    by_group = arrays(tmp_path, is_mapped=is_mapped, key=list("aabbccddeeff"), group_by="key", split=(0.75, 0.25))
    assert (len(by_group["train"]), len(by_group["validation"])) == (8, 4)
    assert all(row ^ 1 in by_group["validation"] for row in map(int, by_group["validation"]))
    days = np.array("2024-01-01", "datetime64[D]") - np.arange(NUM)
    by_time = arrays(tmp_path, is_mapped=is_mapped, key=days, order_by="key", split=(0.75, 0.25))
    assert by_time == {"train": [3, 4, 5, 6, 7, 8, 9, 10, 11], "validation": [0, 1, 2]}
    by_name = arrays(
        tmp_path, is_mapped=is_mapped, key=["train"] * 9 + [b"val".decode()] + ["n"] * 2, split_column="key"
    )
    assert by_name == {"train": list(range(9)), "validation": [9], "n": [10, 11]}
    by_class = arrays(tmp_path, is_mapped=is_mapped, key=[0] * 4 + [1] * 8, stratify="key", split=(0.75, 0.25))
    assert len([row for row in by_class["validation"] if row < 4]) == 1


def test_arrays_of_further_files_need_the_same_form(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", inputs=X[:3] + 100, targets=X[:3, 0])
    np.savez(tmp_path / "bad.npz", inputs=X[:3].astype(int), targets=np.zeros((3, 2)))
    found = arrays(tmp_path, is_mapped=False, key=X, files={"test": tmp_path / "good.npz"})
    assert found == {"train": X[:, 0].tolist(), "test": [100, 101, 102]}
    with pytest.raises(DataError) as caught:
        arrays(tmp_path, is_mapped=False, key=X, files={"north": tmp_path / "bad.npz"})
    assert [fault.message for fault in caught.value.faults] == [
        "each row of the array 'inputs' is ['int64', [1]], not ['float32', [1]]",
        "each row of the array 'targets' is ['float64', [2]], not ['float32', []]",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (np.zeros((NUM, 2)), r"the array 'key' holds float64 of shape \[12, 2\], but decides on the splits of 12 rows"),
        ([0, 1, np.nan, *range(9)], r"row 2 of the array 'key' is missing"),
    ],
)
def test_an_array_that_cannot_decide_is_an_error(tmp_path: Path, key: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        arrays(tmp_path, is_mapped=False, key=key, group_by="key", split=(0.75, 0.25))
    with pytest.raises(DataError, match="there is no array 'kye'"):
        arrays(tmp_path, is_mapped=False, key=X, group_by="kye", split=(0.75, 0.25))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "k"}, "`group_by` needs `split`, such as [0.8, 0.2]"),
        ({"split_column": "k", "split": [0.5, 0.5]}, "`split_column` takes the splits from the file: remove `split`"),
        ({"stratify": "k", "order_by": "k"}, "`stratify` and `order_by` both decide on the splits: set one of them"),
        ({"files": {"train": "a.csv"}}, "`files` names a file for the split 'train', but `path` is the training split"),
        ({"split": [0.5, 0.5], "files": {"validation": "a.csv"}}, "'validation', but `split` takes it from `path`"),
        ({"files": {"a/b": "a.csv"}}, "`files` names a split 'a/b', but a name is text without '/'"),
        ({"split": [0.5, 0.4]}, "the fractions in `split` must sum to 1, not 0.9"),
    ],
)
@pytest.mark.parametrize("use", ["csv", "arrays"])
def test_options_that_disagree_are_an_error_before_a_file_is_read(
    use: str, options: dict[str, Any], message: str
) -> None:
    data = {"use": use, "path": "none", **({"target": "y"} if use == "csv" else {}), **options}
    with pytest.raises(ConfigError) as caught:
        Run(load_config({"data": data}))
    assert message in str(caught.value)


FAULTS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "class": (
        ["a,1", "a,2", "b,3", "c,4"],
        {"stratify": "k", "split": (0.5, 0.5)},
        "the column 'k' has 2 values with fewer rows than the 2 splits: 'b' (1), 'c' (1)",
    ),
    "group": (
        ["a,1", "a,2", "a,3", "b,4"],
        {"group_by": "k", "split": (0.5, 0.5)},
        "the group 'a' of the column 'k' has 3 of 4 rows, and no split takes more than 2",
    ),
    "time": (
        ["1,1", "1,2", "1,3"],
        {"order_by": "k", "split": (0.5, 0.5)},
        "the column 'k' has 1 value, too few to order 2 splits",
    ),
    "text": (
        ["3/4/2020,1", "4/4/2020,2"],
        {"order_by": "k", "split": (0.5, 0.5)},
        "column 'k' holds text such as '3/4/2020', whose order is unknown",
    ),
    "empty": (
        ["a,1", ",2", "b,3"],
        {"group_by": "k", "split": (0.5, 0.5)},
        "column 'k': the cell is empty, but `group_by` needs it",
    ),
    "names": (["a,1", "b,2"], {"split_column": "k"}, "the column 'k' names no row 'train': it has 'a', 'b'"),
    "slash": (["train,1", "a/b,2"], {"split_column": "k"}, "the column 'k' names a split 'a/b'"),
    "column": (
        ["a,1", "b,2"],
        {"group_by": "kk", "split": (0.5, 0.5)},
        "there is no column 'kk', which `group_by` names",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_rows_that_cannot_be_split_so_are_an_error(tmp_path: Path, case: str) -> None:
    rows, options, message = FAULTS[case]
    with pytest.raises(DataError) as caught:
        table(tmp_path, "k,x,y\n" + "".join(f"{row},0\n" for row in rows), features=("x",), **options)
    assert [fault.message for fault in caught.value.faults] == [message]


def test_a_further_file_without_a_column_or_with_a_name_of_the_column_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("y\n1\n")
    with pytest.raises(DataError, match=r"there is no column 'x', which t\.csv has"):
        table(tmp_path, "x,y\n1,0\n", files={"north": tmp_path / "v.csv"})
    (tmp_path / "v.csv").write_text("x,y\n1,1\n")
    with pytest.raises(DataError, match="both a file and the column 'k' name the split 'north'"):
        table(tmp_path, "x,k,y\n1,train,0\n2,north,0\n", split_column="k", files={"north": tmp_path / "v.csv"})
