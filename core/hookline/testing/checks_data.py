"""The checks for data sources.

Shapes: an input is ``[I]``, a target ``[O]`` or, as a class index, ``[]``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hookline.engine.data import DataSource
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.streams import shard_of
from hookline.engine.reading.workers import Workers
from hookline.testing.kit import Broken, Subject, check, skip
from hookline.testing.parts import BuildWatch, tensors_in

MOST_EXAMPLES = 1000
"""Number of examples that a check reads of each split; reading all of a large one would take minutes."""

_BATCH_SIZE = 4

Content = tuple[object, ...]


def _data(subject: Subject, seed: int = 0) -> DataSource:
    return subject.run(seed=seed).data


def _is_stream(dataset: Dataset[Any]) -> bool:
    return isinstance(dataset, IterableDataset)


def _examples(dataset: Dataset[Any], most: int = MOST_EXAMPLES) -> Iterator[Any]:
    """Yield the examples of a dataset in its own order."""
    if _is_stream(dataset):
        yield from itertools.islice(cast(Iterable[Any], dataset), most)
    else:
        for index in range(min(len(cast(Sized, dataset)), most)):
            yield dataset[index]


def _content(example: Any) -> Content:
    """Return the values of an example as a hashable key."""
    parts = [(t.dtype, tuple(t.shape), t.detach().contiguous().numpy().tobytes()) for t in tensors_in(example)]
    return tuple(parts) if parts else (repr(example),)


def _contents(dataset: Dataset[Any]) -> list[Content]:
    return [_content(example) for example in _examples(dataset)]


def _batches(data: DataSource, seed: int = 0) -> Batches:
    return Batches(data.train, _BATCH_SIZE, Workers(torch.float32, item_seed=seed), seed=seed)


def _epoch(batches: Batches, epoch: int, start: int = 0) -> list[Content]:
    most = MOST_EXAMPLES // _BATCH_SIZE
    return [_content(batch) for batch in itertools.islice(batches.epoch(epoch, start), most)]


def _epoch_with_places(batches: Batches) -> tuple[list[Content], list[Any]]:
    most = MOST_EXAMPLES // _BATCH_SIZE
    read = enumerate(itertools.islice(batches.epoch(1), most), 1)
    contents, places = zip(*((_content(batch), batches.place(number)) for number, batch in read), strict=True)
    return list(contents), list(places)


@check
def sizes_are_true(subject: Subject) -> None:
    """The sizes and names of the data source, such as in_features, match its examples."""
    data = _data(subject)
    example = next(_examples(data.train))
    if not (isinstance(example, tuple | list) and len(example) == 2 and all(isinstance(p, Tensor) for p in example)):
        skip("its examples are not pairs of tensors, so they have no sizes")
    if wrong := [*_wrong_sizes(data, *example), *_wrong_names(data, example[1])]:
        raise Broken("; ".join(wrong), "give the sizes of one example: inputs [I], targets [O] or class indices []")


def _wrong_sizes(data: DataSource, inputs: Tensor, target: Tensor) -> Iterator[str]:
    if data.in_features is not None and list(inputs.shape) != [data.in_features]:
        yield f"in_features is {data.in_features}, but an input is {list(inputs.shape)}"
    if data.out_features is None:
        return
    if target.is_floating_point():
        if list(target.shape) != [data.out_features]:
            yield f"out_features is {data.out_features}, but a target is {list(target.shape)}"
    elif not target.dim():
        classes = {int(target) for _, target in _examples(data.train)}
        if not classes <= set(range(data.out_features)):
            yield f"out_features is {data.out_features}, but class indices go from {min(classes)} to {max(classes)}"


def _wrong_names(data: DataSource, target: Tensor) -> Iterator[str]:
    is_index = not target.is_floating_point() and not target.dim()
    # Two classes may share one output, as targets 0 and 1.
    num_classes = 2 if data.out_features == 1 else data.out_features
    expected = {
        "feature_names": (data.feature_names, data.in_features),
        "target_names": (data.target_names, 1 if is_index else data.out_features),
        "class_names": (data.class_names, num_classes),
    }
    for attribute, (names, size) in expected.items():
        if names and size is not None and len(names) != size:
            yield f"{len(names)} {attribute}, expected {size}"


@check
def seed_makes_data(subject: Subject) -> None:
    """The same seed gives the same data: draw random numbers from run.generator(name)."""
    first, second = _data(subject).splits(), _data(subject).splits()
    if first.keys() != second.keys():
        advice = "choose the splits by the options alone"
        raise Broken(f"first the splits {', '.join(first)}, then {', '.join(second)}", advice)
    if changed := [name for name in first if _contents(first[name]) != _contents(second[name])]:
        advice = "draw from run.generator(name), which depends on the seed alone; sort unordered input such as files"
        raise Broken(f"different examples the second time: {', '.join(changed)}", advice)


@check
def order_follows_the_epoch(subject: Subject) -> None:
    """The batches are the same for the same seed and epoch, and ordered differently in the next epoch."""
    first, second = (_batches(_data(subject)) for _ in range(2))
    if _epoch(first, 1) != _epoch(second, 1):
        raise Broken("the first epoch has different batches the second time", "leave the order to the run")
    if first.num_examples is None:
        skip("a stream has its own order")
    if len(set(_contents(_data(subject).train))) < _BATCH_SIZE:
        skip("too few different examples to compare orders")
    if _epoch(first, 1) == _epoch(first, 2):
        raise Broken("the second epoch has the order of the first", "return the example at the given index")


@check
def starts_anywhere(subject: Subject) -> None:
    """An epoch that starts in the middle gives its remaining batches: by the index of an example, or by a state."""
    batches = _batches(_data(subject))
    is_stream = batches.num_batches is None
    whole, places = _epoch_with_places(batches)
    if is_stream and not any(places[0]["shares"]):
        skip("a stream without state_dict and load_state_dict is read from its start")
    for start in sorted({1, len(whole) // 2, len(whole) - 1} - {0, len(whole)}):
        if is_stream:
            batches = _batches(_data(subject))
            batches.resume(1, start, start * _BATCH_SIZE, places[start - 1])
        if _epoch(batches, 1, start)[: len(whole) - start] != whole[start:]:
            advice = "let an example depend on its index alone, or save all that a stream needs in its state_dict"
            raise Broken(f"different batches when the epoch starts at batch {start}", advice)


@check
def splits_are_disjoint(subject: Subject) -> None:
    """No example is in more than one split."""
    splits = {name: _contents(dataset) for name, dataset in _data(subject).splits().items()}
    if len(splits) < 2:
        skip("there is one split")
    if len(set(splits["train"])) < len(splits["train"]):
        skip("the training split repeats examples, so equal examples are allowed")
    for first, second in itertools.combinations(splits, 2):
        if both := len(set(splits[first]) & set(splits[second])):
            raise Broken(f"{both} examples are in both {first} and {second}", "put each row into one split")


@check
def shards_are_disjoint(subject: Subject) -> None:
    """Two processes that read alternate examples, or two workers of a stream, read each example once."""
    data, other = _data(subject), _data(subject)
    if _is_stream(data.train):
        expected, read = Counter(_contents(data.train)), Counter(_read_by_workers(other.train))
    else:
        order = _batches(data).order(1).tolist()[:MOST_EXAMPLES]
        expected = Counter(_content(data.train[index]) for index in order)
        sources = zip(order, itertools.cycle([_data(subject).train, other.train]), strict=False)
        read = Counter(_content(dataset[index]) for index, dataset in sources)
    missing, extra = (expected - read).total(), (read - expected).total()
    if missing or extra:
        advice = "let an example depend on its index alone; split a stream between workers: shard, or get_worker_info"
        raise Broken(f"{missing} examples are missing and {extra} are duplicates", advice)


def _read_by_workers(dataset: Dataset[Any]) -> Iterator[Content]:
    # Limited, because a stream may be endless.
    if shard := shard_of(dataset):
        shares = (_examples(shard(worker=worker, num_workers=2)) for worker in range(2))
        return map(_content, itertools.chain(*shares))
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    return (_content(example) for example in itertools.islice(loader, 2 * MOST_EXAMPLES))


@check
def examples_are_alike(subject: Subject) -> None:
    """All examples have the same shapes and dtypes, and finite values."""
    for name, dataset in _data(subject).splits().items():
        first: list[tuple[object, ...]] | None = None
        for number, example in enumerate(_examples(dataset)):
            tensors = list(tensors_in(example))
            form = [(list(tensor.shape), tensor.dtype) for tensor in tensors]
            first = first or list(form)
            if form != first:
                advice = "give all examples the same shapes and dtypes"
                raise Broken(f"example {number} of {name} is {form}, the first is {first}", advice)
            if not all(torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()):
                advice = "drop or fill missing values, or raise a DataError that names them"
                raise Broken(f"example {number} of {name} is not finite", advice)


@check
def length_is_true(subject: Subject) -> None:
    """The length of a split is its number of examples, and the index after the last raises IndexError."""
    indexed = {name: each for name, each in _data(subject).splits().items() if not _is_stream(each)}
    if not indexed:
        skip("a stream has no length")
    for name, dataset in indexed.items():
        length = len(cast(Sized, dataset))
        advice = "make __len__ agree with __getitem__, and raise IndexError after the last example"
        try:
            dataset[length - 1]
        except IndexError:
            raise Broken(f"{name} has length {length} but no example {length - 1}", advice) from None
        try:
            dataset[length]
        except IndexError:
            continue
        raise Broken(f"{name} has length {length} but also an example {length}", advice)


@check
def leaves_shared_generators_alone(subject: Subject) -> None:
    """Building and reading the data draw from run.generator(name), not from global random generators."""
    observer = BuildWatch()
    data = subject.run(plugins={"callbacks.observer": observer}).data
    _contents(data.train)
    if drawn := observer.drawn():
        raise Broken(f"changed: {', '.join(drawn)}", "draw from run.generator(name)")


@check
def reads_the_same_again(subject: Subject) -> None:
    """Reading an example again gives the same values."""
    for name, dataset in _data(subject).splits().items():
        if _contents(dataset) != _contents(dataset):
            advice = "do not change examples when they are read; do random augmentation in a separate step"
            raise Broken(f"{name} gives different examples the second time", advice)
