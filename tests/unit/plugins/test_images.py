"""Data source ``images``: pixels as Pillow and NumPy have them, exact changes, faults, predictions; ``cnn``; sheets."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hookline import DataError, DataSource, HooklineError, Run, load_config, train
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.trained import export_model, load_onnx, load_trained, write_predictions
from hookline_plugins.data.images import augmenting
from hookline_plugins.data.images.augmenting import operations
from hookline_plugins.data.images.preparation import Preparation, statistics_of
from hookline_plugins.data.images.reading import Form, read_header, read_pixels
from hookline_plugins.data.images.starter import from_images

Image = pytest.importorskip("PIL.Image", reason="the extra images is not installed")

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def folder_of_images(
    root: Path, num: int = 12, size: tuple[int, int] = (6, 5), classes: tuple[str, ...] = ("a", "b")
) -> Path:
    """Write grey images: those of the second class are bright."""
    rng = np.random.default_rng(1)
    for number in range(num):
        label = number % len(classes)
        pixels = rng.integers(0, 100, size, dtype=np.uint8) + np.uint8(100 * label)
        save(root / classes[label] / f"{number:02d}.png", pixels)
    return root


def config_of(path: Path, **options: Any) -> dict[str, Any]:
    return {
        "train": {"epochs": 2, "batch_size": 4},
        "data": {"use": "images", "path": str(path), **options},
        "model": {"use": "cnn", "widths": [2, 3]},
        "loss": "mse" if "target" in options else "cross-entropy",
        "optimizer": "adam",
    }


def data_of(path: Path, **options: Any) -> DataSource:
    return Run(load_config(config_of(path, **options))).data


def faults_of(path: Path, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(DataError) as caught:
        data_of(path, **options)
    return [(fault.message, fault.location.source if fault.location else "") for fault in caught.value.faults]


# ---- reading --------------------------------------------------------------------------------------------------------


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    wide = RNG.integers(0, 2**16, (6, 8), dtype=np.uint16)
    palette = Image.fromarray(GREY // 128, "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    looked_up = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[GREY // 128]
    clear = np.dstack([RGB, GREY])  # with transparency
    cases: list[tuple[Any, str, Any]] = [
        (RGB, "rgb", RGB),
        (GREY, "grey", GREY[:, :, None]),
        (GREY, "rgb", np.dstack([GREY] * 3)),
        (GREY, "grey16", GREY[:, :, None].astype(np.uint16) * 257),
        (wide, "grey16", wide[:, :, None]),
        (wide, "grey", (wide >> 8).astype(np.uint8)[:, :, None]),
        (palette, "rgb", looked_up),
        (clear, "rgb", RGB),
    ]
    for number, (pixels, mode, expected) in enumerate(cases):
        path = save(tmp_path / f"{number}.png", pixels)
        found = read_pixels(path, Form(mode, (6, 8)))  # type: ignore[arg-type] # each is a mode
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), (number, mode)
    assert [read_header(tmp_path / f"{number}.png").kind for number in (0, 1, 4, 6)] == ["rgb", "grey", "grey16", "rgb"]


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY // 128, "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    path = save(tmp_path / "x.png", palette, transparency=bytes([0, 255]))
    found = read_pixels(path, Form("rgb", (6, 8)))
    assert np.array_equal(found[GREY >= 128], np.full((int((GREY >= 128).sum()), 3), (40, 50, 60)))


def test_images_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left: rows are columns, from right to left
    path = save(tmp_path / "x.png", RGB, exif=exif)
    assert read_header(path).size == (8, 6)
    assert np.array_equal(read_pixels(path, Form("rgb", (8, 6))), np.rot90(RGB, -1))


def test_sizes_are_changed_as_pillow_does(tmp_path: Path) -> None:
    from PIL import ImageOps

    image = Image.fromarray(RNG.integers(0, 256, (10, 30, 3), dtype=np.uint8))
    path, bilinear = save(tmp_path / "x.png", image), Image.Resampling.BILINEAR
    found = {resize: read_pixels(path, Form("rgb", (5, 6), resize)) for resize in ("crop", "pad", "stretch")}
    assert np.array_equal(found["stretch"], np.asarray(image.resize((6, 5), bilinear)))
    assert np.array_equal(found["crop"], np.asarray(ImageOps.fit(image, (6, 5), bilinear)))
    assert np.array_equal(found["pad"][1:3], np.asarray(image.resize((6, 2), bilinear)))
    assert not found["pad"][[0, 3, 4]].any()


def test_inputs_are_standardized_by_the_training_split(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    mean, std = statistics_of([pixels[:2], pixels[2:]], 255)
    whole = pixels.reshape(-1, 3) / 255
    assert np.allclose(mean, whole.mean(0), atol=1e-12)
    assert np.allclose(std, whole.std(0), atol=1e-12)
    prepared = Preparation(255, mean, std)
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(prepared.of_rows(pixels), expected, atol=1e-5)
    assert torch.equal(prepared(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())), prepared.of_rows(pixels))
    folder = folder_of_images(tmp_path)
    data = data_of(folder, split=[0.5, 0.5])
    values = torch.stack([data.train[number][0] for number in range(6)]).double()
    assert values.mean().abs() < 1e-6
    assert (values.std(correction=0) - 1).abs() < 1e-6
    given = data_of(folder, mean=[0.5], std=[0.25]).train[0][0]
    assert np.allclose(given[0], (np.asarray(Image.open(folder / "a" / "00.png")) / 255 - 0.5) / 0.25, atol=1e-6)


# ---- random changes -------------------------------------------------------------------------------------------------


def drawing(*numbers: float) -> Any:
    return iter(numbers).__next__


def changed(name: str, pixels: Any, *drawn: float, **options: Any) -> Any:
    return operations({name: options})[0].apply(pixels, drawing(*drawn))


def assert_alike(found: Any, expected: Any) -> None:
    """Compare pixels that were interpolated, and so rounded."""
    assert np.abs(found.astype(float) - expected).max() <= 1


def test_flips_and_crops_are_those_written_out() -> None:
    assert np.array_equal(changed("horizontal-flip", RGB, 0.4), RGB[:, ::-1])
    assert np.array_equal(changed("horizontal-flip", RGB, 0.6), RGB)
    assert np.array_equal(changed("vertical-flip", RGB, 0.1, p=0.2), RGB[::-1])
    padded = np.pad(RGB, ((3, 3), (3, 3), (0, 0)))
    for row in range(7):  # of 7 places each; 0.999 is the last
        found = changed("random-crop", RGB, (row + 0.01) / 7, 0.999, padding=3)
        assert np.array_equal(found, padded[row : row + 6, 6:14])
    assert not changed("random-crop", RGB, 0.0, 0.0, padding=9).any()


def test_an_affine_change_is_a_turn_a_shift_or_nothing() -> None:
    square = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    assert np.array_equal(changed("affine", square, 0.5, 0.5, 0.5, 0.5), square)
    assert_alike(changed("affine", square, 1.0, 0.5, 0.5, 0.5, degrees=90), np.rot90(square, -1))
    shifted = changed("affine", square, 0.5, 0.5, 1.0, 0.5, translate=1 / 3)  # two columns to the right
    assert np.array_equal(shifted[:, 2:], square[:, :4])
    assert not shifted[:, :2].any()
    wide = RNG.integers(0, 2**16, (6, 6, 1), dtype=np.uint16)
    assert_alike(changed("affine", wide, 1.0, 0.5, 0.5, 0.5, degrees=90), np.rot90(wide, -1))


def test_parts_are_resized_and_erased() -> None:
    square = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    whole = changed("random-resized-crop", square, 1.0, 0.5, 0.0, 0.0, ratio=[0.5, 2])
    assert np.array_equal(whole, square)
    quarter = changed("random-resized-crop", square, 0.0, 0.5, 1.0, 0.0, scale=[0.25, 1], ratio=[0.5, 2])
    places, all_places = (np.arange(8) + 0.5) / 2 - 0.5, np.arange(8)
    rows = np.apply_along_axis(lambda line: np.interp(places + 4, all_places, line), 0, square.astype(float))
    assert_alike(quarter, np.apply_along_axis(lambda line: np.interp(places, all_places, line), 1, rows))
    erased = changed("erase", square, 0.0, 0.0, 0.5, 0.99, 0.0, scale=[0.25, 1], ratio=[0.5, 2])
    expected = square.copy()
    expected[4:, :4] = 0
    assert np.array_equal(erased, expected)
    assert np.array_equal(changed("erase", square, 0.9, 0.0, 0.5, 0.5, 0.5), square)


def test_colours_are_changed_by_their_factors() -> None:
    darker = changed("color-jitter", RGB, 0.0, 0.5, 0.5, brightness=0.5)
    assert np.array_equal(darker, np.rint(RGB.astype(np.float32) * 0.5).astype(np.uint8))
    grey = changed("color-jitter", RGB, 0.5, 0.5, 0.0, saturation=1.0)
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.astype(float) - expected[:, :, None]).max() <= 0.51
    flat = changed("color-jitter", GREY[:, :, None], 0.5, 0.0, 0.5, contrast=1.0)
    assert np.abs(flat - GREY.mean()).max() <= 0.51


def test_each_operation_draws_as_often_for_every_image() -> None:
    for name in augmenting.OPERATIONS:
        counts = set()
        for seed in range(8):
            numbers = iter(np.random.default_rng(seed).random(20).tolist())
            operations({name: {}})[0].apply(RGB, numbers.__next__)
            counts.add(len(list(numbers)))
        assert len(counts) == 1, name


def test_all_faults_of_the_changes_are_named(tmp_path: Path) -> None:
    table = {"horizntal-flip": {}, "affine": {"degree": 3}, "erase": {"p": 2}}
    with pytest.raises(HooklineError) as caught:
        Run(load_config(config_of(tmp_path, augment=table)))
    text = str(caught.value)
    assert all(part in text for part in ("did you mean 'horizontal-flip'?", "`degree`", "`float` <= 1.0"))


AUGMENT = {"random-crop": {"padding": 2}, "horizontal-flip": {}, "affine": {"degrees": 30}}


def epoch_of(data: DataSource, size: int, workers: int, epoch: int = 1, seed: int = 0) -> dict[int, Any]:
    """Return the images of an epoch by their index in the training split."""
    reading = Workers(torch.float32, num_workers=workers, item_seed=seed)
    batches = Batches(data.train, size, reading, seed=seed * 7 + size)
    with reading:
        images = torch.cat([batch[0] for batch in batches.epoch(epoch)])
    return dict(zip(batches.order(epoch).tolist(), images.numpy(), strict=True))


def test_a_change_belongs_to_seed_epoch_and_example(tmp_path: Path) -> None:
    data = data_of(folder_of_images(tmp_path), augment=AUGMENT)
    first = epoch_of(data, 4, 0)
    for size, workers in ((5, 0), (3, 2)):
        other = epoch_of(data, size, workers)
        assert all(np.array_equal(first[index], other[index]) for index in first)
    assert not any(np.array_equal(first[index], epoch_of(data, 4, 0, epoch=2)[index]) for index in first)
    assert not any(np.array_equal(first[index], epoch_of(data, 4, 0, seed=1)[index]) for index in first)


def test_validation_images_are_not_changed_and_files_give_the_same_as_memory(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path)
    plain, moved = data_of(folder, split=[0.5, 0.5]), data_of(folder, split=[0.5, 0.5], augment=AUGMENT)
    read = data_of(folder, split=[0.5, 0.5], in_memory=False, augment=AUGMENT)
    for one in (moved, read):
        assert one.validation is not None
        assert all(torch.equal(one.validation[n][0], plain.validation[n][0]) for n in range(6))  # type: ignore[index] # as above
    assert all(np.array_equal(*pair) for pair in zip(*(epoch_of(d, 4, 0).values() for d in (moved, read)), strict=True))
    assert hasattr(plain.train, "gather")
    batch = plain.train.gather(torch.tensor([3, 1]))
    assert torch.equal(batch[0], torch.stack([plain.train[3][0], plain.train[1][0]]))
    assert batch[1].tolist() == [plain.train[3][1], plain.train[1][1]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_run_resumes_within_an_epoch_to_the_same_bits(tmp_path: Path, in_memory: bool) -> None:
    config = config_of(folder_of_images(tmp_path / "images"), augment=AUGMENT, in_memory=in_memory, split=[0.8, 0.2])
    whole = Run(load_config(config))
    whole.fit()
    first, again = Run(load_config(config)), Run(load_config(config))
    for _ in first.steps():
        if first.step == 4:  # the first of three of the second epoch
            state = first.state_dict()
            break
    again.load_state_dict(state)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert whole.history == again.history


# ---- folders and tables ---------------------------------------------------------------------------------------------


def classes_in(dataset: Any) -> Counter[int]:
    return Counter(int(dataset[number][1]) for number in range(len(dataset)))


def test_a_folder_per_class_is_split_with_the_shares_of_its_classes(tmp_path: Path) -> None:
    folder_of_images(tmp_path, 30, classes=("b", "c"))
    folder_of_images(tmp_path, 10, classes=("a",))
    data = data_of(tmp_path, split=[0.6, 0.2, 0.2])
    assert data.class_names == ("a", "b", "c")
    assert data.out_features == 3
    assert [classes_in(part) for part in (data.train, data.validation, data.test)] == [
        {0: 6, 1: 9, 2: 9},
        {0: 2, 1: 3, 2: 3},
        {0: 2, 1: 3, 2: 3},
    ]


def test_folders_may_be_the_splits(tmp_path: Path) -> None:
    for split, num in (("train", 6), ("val", 4), ("test", 2)):
        folder_of_images(tmp_path / split, num)
    data = data_of(tmp_path)
    assert {name: len(part) for name, part in data.splits().items()} == {"train": 6, "validation": 4, "test": 2}  # type: ignore[arg-type] # each has one
    assert faults_of(tmp_path, split=[0.8, 0.2])[0][0].startswith("`split` asks for a validation split")
    folder_of_images(tmp_path / "val", 1, classes=("z",))
    expected = "1 image of the validation split: the label is 'z', which no training image has"
    assert faults_of(tmp_path)[0][0] == expected


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_names_images_and_numbers(tmp_path: Path) -> None:
    pytest.importorskip("polars", reason="the extra tables is not installed")
    folder_of_images(tmp_path)
    names = [f"{'ab'[number % 2]}/{number:02d}.png" for number in range(12)]
    rows = [
        {"file": name, "age": number * 1.5, "part": "train" if number < 8 else "test"}
        for number, name in enumerate(names)
    ]
    table = write_table(tmp_path / "x.csv", rows)
    options = {"column": "file", "target": "age", "split_column": "part", "standardize_target": True}
    data = data_of(table, **options)
    ages = np.arange(8) * 1.5
    assert data.task == "regression"
    assert np.allclose([data.train[n][1].item() for n in range(8)], (ages - ages.mean()) / ages.std())
    assert data.unscale is not None
    assert data.test is not None
    assert data.unscale(data.test[0][1][None]).item() == pytest.approx(12.0)
    rows[2]["file"], rows[4]["part"], rows[5]["age"] = "a/77.png", "dev", ""
    write_table(table, rows)
    with pytest.raises(DataError) as caught:
        data_of(table, **options)
    found = {(fault.message, fault.location.line) for fault in caught.value.faults if fault.location}
    assert found == {
        ("column 'file': there is no file 'a/77.png'", 4),
        ("column 'part': 'dev' is no split", 6),
        ("column 'age': the target is missing", 7),
    }


def test_the_faults_of_all_files_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_images(tmp_path)
    (tmp_path / "a" / "00.png").write_bytes((tmp_path / "a" / "00.png").read_bytes()[:50])  # within the pixels
    (tmp_path / "b" / "01.png").write_text("no image")
    (tmp_path / "b" / "03.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("left out")
    save(tmp_path / "b" / "wide.tif", GREY.astype(np.float32))
    found = {Path(path).name: text.rpartition(": ")[2] for text, path in faults_of(tmp_path, size=[6, 5])}
    assert found == {
        "00.png": "image file is truncated",
        "01.png": "it is no image that Pillow can read",
        "03.png": "it is no image that Pillow can read",
        "wide.tif": "its pixels are floating-point numbers, which have no range",
    }
    for name in ("a/00.png", "b/01.png", "b/03.png", "b/wide.tif"):
        (tmp_path / name).unlink()
    run = Run(load_config(config_of(tmp_path)))
    assert "notes.txt" in run.warnings[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    assert all("exceeds limit of 29 pixels" in message for message, _ in faults_of(tmp_path))


def test_a_folder_without_classes_or_with_several_sizes_is_refused(tmp_path: Path) -> None:
    folder_of_images(tmp_path, 4)
    save(tmp_path / "a" / "large.png", RGB)
    assert faults_of(tmp_path)[0][0] == "the images have 2 different sizes: 6 x 5 (4), 6 x 8 (1)"
    save(tmp_path / "loose.png", GREY)
    assert faults_of(tmp_path)[0][0] == "loose.png: the image is in no folder of a class"
    assert faults_of(tmp_path / "nothing")[0][0] == "there is no such file or folder"
    (tmp_path / "empty").mkdir()
    assert faults_of(tmp_path / "empty")[0][0] == "the folder has no images"


def test_a_damaged_file_that_is_read_later_is_named(tmp_path: Path) -> None:
    folder_of_images(tmp_path)
    path = tmp_path / "a" / "00.png"
    path.write_bytes(path.read_bytes()[:50])
    config = config_of(tmp_path, in_memory=False, mean=[0.5], std=[0.5])
    with pytest.raises(DataError, match=r"a/00\.png: image file is truncated"):
        train(config)


# ---- predictions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    folder = folder_of_images(root / "data")
    config = config_of(folder, split=[0.5, 0.5]) | {"callbacks": {"run-folder": {"parent": str(root / "runs")}}}
    train(config)
    return root


def predicted(root: Path, source: Path, overrides: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    model = load_trained(root / "runs" / "0001-images-cnn", overrides or {})
    write_predictions(model, source, root / "out.csv", force=True)
    return list(csv.DictReader(io.StringIO((root / "out.csv").read_text())))


def test_a_folder_a_table_and_a_file_are_predicted_as_in_training(trained_run: Path) -> None:
    root = trained_run
    (root / "data" / "new.csv").write_text("path,id\nb/01.png,7\na/00.png,8\n")
    model = load_trained(root / "runs" / "0001-images-cnn")
    pixels = np.stack([np.asarray(Image.open(root / "data" / name)) for name in ("b/01.png", "a/00.png")])[:, None]
    kept = model.data.kept
    inputs = torch.from_numpy((pixels / 255 - kept["mean"]) / kept["std"]).float()
    expected = model.model(inputs).double().softmax(1).tolist()
    for rows in (predicted(root, root / "data" / "new.csv"),):
        assert [row["path"] for row in rows] == ["b/01.png", "a/00.png"]
        found = [[float(row["probability_a"]), float(row["probability_b"])] for row in rows]
        assert np.allclose(found, expected, atol=1e-5)
        assert [row["predicted_label"] for row in rows] == ["ab"[int(np.argmax(one))] for one in expected]
    whole = {row["path"]: row for row in predicted(root, root / "data")}
    assert len(whole) == 12
    assert float(whole["b/01.png"]["probability_a"]) == pytest.approx(expected[0][0], abs=1e-5)
    assert predicted(root, root / "data" / "a" / "00.png")[0]["path"] == "00.png"
    labels = model.predict([root / "data" / "b" / "01.png"])
    assert labels.tolist() == model.predict(pixels[:1]).tolist() == [whole["b/01.png"]["predicted_label"]]
    assert np.allclose(model.predict(pixels, probabilities=True), expected, atol=1e-5)
    with pytest.raises(DataError, match=r"1 fault|one fault"):
        model.predict(pixels[:, :, :3])


def test_images_that_cannot_be_read_are_named_or_left_empty(trained_run: Path) -> None:
    new = trained_run / "new"
    save(new / "1.png", GREY[:, :5])
    (new / "2.png").write_bytes((new / "1.png").read_bytes()[:60])
    save(new / "3.png", RGB[:, :5])
    (new / "4.jpg").write_text("none")
    with pytest.raises(DataError) as caught:
        predicted(trained_run, new)
    assert [Path(fault.location.source).name for fault in caught.value.faults if fault.location] == ["2.png", "4.jpg"]
    rows = predicted(trained_run, new, {"data.faulty": "empty"})
    assert [row["problem"] for row in rows] == [
        "",
        "image file is truncated",
        "",
        "it is no image that Pillow can read",
    ]
    assert [bool(row["predicted_label"]) for row in rows] == [True, False, True, False]
    assert rows[1]["probability_a"] == ""


def test_an_exported_model_takes_pixels(trained_run: Path) -> None:
    folder = trained_run / "runs" / "0001-images-cnn"
    export_model(load_trained(folder), "torch-export", trained_run / "model.pt2", force=True)
    pixels = np.stack([np.asarray(Image.open(trained_run / "data" / name)) for name in ("b/01.png", "a/00.png")])[
        :, None
    ]
    outputs = torch.export.load(trained_run / "model.pt2").module()({"pixels": torch.from_numpy(pixels)})
    expected = load_trained(folder).predict(pixels, probabilities=True)
    assert np.allclose(outputs["probabilities"].detach(), expected, atol=1e-6)
    assert outputs["label"].tolist() == expected.argmax(1).tolist()


def test_an_onnx_file_of_a_model_of_images_predicts_as_the_run_does(trained_run: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    data, made = trained_run / "data", trained_run / "model.onnx"
    export_model(load_trained(trained_run / "runs" / "0001-images-cnn"), "onnx", made)
    rows = predicted(trained_run, data)
    pixels = np.stack([np.asarray(Image.open(data / row["path"]))[None] for row in rows])
    np.savez(trained_run / "new.npz", pixels=pixels)
    (found,) = load_onnx(made).predictions(trained_run / "new.npz")
    assert found["predicted_label"] == [row["predicted_label"] for row in rows]
    for name in ("probability_a", "probability_b"):
        np.testing.assert_allclose(found[name], [float(row[name]) for row in rows], atol=1e-6)
    with pytest.raises(
        DataError, match=r"(?s)there is no array 'pixels'.*with pixels, uint8 \[N, 1, 6, 5\]; a run takes"
    ):
        list(load_onnx(made).predictions(data))


# ---- the sheet, the model, first configs ----------------------------------------------------------------------------


class Brightness(nn.Module):
    """Logits that say ``b`` the more, the brighter the image is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([-self.scale * mean, self.scale * mean], dim=1)


def test_the_worst_images_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hookline_plugins.callback_parts.contact_sheet import contact_sheet
    from hookline_plugins.callbacks import worst_images

    folder = folder_of_images(tmp_path / "data")
    save(folder / "a" / "98.png", np.full((6, 5), 199, np.uint8))  # as bright as b
    save(folder / "b" / "99.png", np.full((6, 5), 100, np.uint8))
    callbacks = {"run-folder": {"parent": str(tmp_path / "runs")}, "worst-images": {"split": "train", "count": 3}}
    config = config_of(folder) | {"optimizer": {"use": "sgd", "lr": 1e-9}, "callbacks": callbacks}
    seen: list[Any] = []

    def watched(shown: Any, title: str) -> bytes:
        seen.append((shown, title))
        return contact_sheet(shown, title)

    monkeypatch.setattr(worst_images, "contact_sheet", watched)
    result = train(config, plugins={"model": Brightness()})
    shown, title = seen[-1]
    data = data_of(folder)
    images = torch.stack([data.train[number][0] for number in range(14)]).mean((1, 2, 3))
    true = torch.tensor([int(data.train[number][1]) for number in range(14)])
    errors = functional.cross_entropy(torch.stack([-images, images], 1).double(), true, reduction="none")
    order = errors.argsort(descending=True)[:3].tolist()
    assert [one.lines[2] for one in shown] == [data.train.pictures.names[index] for index in order]  # type: ignore[attr-defined] # of this data source
    assert shown[0].lines == ["true a", f"predicted b ({1 - float((-errors.max()).exp()):.0%})", "a/98.png"]
    assert data.train.origins(order[:1]) == {"file": ["a/98.png"]}  # type: ignore[attr-defined] # as above
    assert np.array_equal(shown[0].pixels[:, :, 0], np.full((6, 5), 199))
    assert result.metrics["train/worst_error"] == pytest.approx(errors.max().item(), rel=1e-6)
    assert title == "train, epoch 2, step 8: the 3 worst"
    sheet = Image.open(tmp_path / "runs" / "0001-images-Brightness" / "artifacts" / "worst-train.png")
    assert sheet.size[0] == 2 * 144
    assert sheet.getpixel((8 + 64, 31 + 64)) == (199, 199, 199)


def test_the_network_is_the_one_written_out(tmp_path: Path) -> None:
    config = config_of(folder_of_images(tmp_path)) | {"model": {"use": "cnn", "widths": [2, 3], "norm": "none"}}
    model = Run(load_config(config)).model
    weights = list(model.parameters())
    x = torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    names = [name for name, _ in model.named_parameters()]
    by_name = dict(zip(names, weights, strict=True))

    def convolved(values: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        return functional.conv2d(values, by_name[f"{name}.weight"], by_name[f"{name}.bias"], **options)

    with torch.no_grad():
        y = convolved(x, "0", padding=1).relu()
        y = (y + convolved(convolved(y, "2.change.0", padding=1).relu(), "2.change.2", padding=1)).relu()
        inner = convolved(y, "3.change.0", stride=2, padding=1).relu()
        y = (convolved(y, "3.shortcut.0", stride=2) + convolved(inner, "3.change.2", padding=1)).relu()
        expected = functional.linear(y.mean((2, 3)), by_name["6.weight"], by_name["6.bias"])
        assert torch.allclose(model(x), expected, atol=1e-6)


def test_the_default_network_has_the_size_of_its_source(tmp_path: Path) -> None:
    # He et al., section 4.2: 6n + 2 layers, here with n = 1, and 1 x 1 convolutions as shortcuts.
    config = config_of(folder_of_images(tmp_path)) | {"model": "cnn"}
    model = Run(load_config(config)).model
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) + 1 == 8
    kernels = 9 * (1 * 16 + 16 * 16 * 2 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 16 * 32 + 32 * 64
    norms = 2 * (16 * 3 + 32 * 3 + 64 * 3)
    assert sum(p.numel() for p in model.parameters()) == kernels + norms + 64 * 2 + 2


def test_a_new_model_of_transformers_gets_size_and_channels_from_the_images(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra transformers is not installed")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vit = {"use": "transformers", "task": "image-classification", "architecture": "vit"}
    config = config_of(folder_of_images(tmp_path / "data"), split=[0.5, 0.5])
    config["model"] = vit | {"config": sizes | {"patch_size": 2, "image_size": [6, 5]}}
    model: Any = Run(load_config(config)).unwrapped_model
    assert model.config.num_channels == 1
    assert model.config.image_size == [6, 5]
    config["data"]["size"] = [4, 4]
    config["model"]["config"].pop("image_size")
    config["callbacks"] = {"run-folder": {"parent": str(tmp_path)}}
    result = train(config)
    assert result.model.config.image_size == 4  # type: ignore[union-attr] # of the package
    trained = load_trained(tmp_path / "0001-images-transformers")
    assert trained.predict([tmp_path / "data" / "a" / "00.png"]).shape == (1,)


def test_a_first_config_for_a_folder_of_images_can_be_trained(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "data")
    save(folder / "a" / "large.png", RGB)
    starter = from_images(folder, tmp_path)
    assert starter.tables["data"] == {"use": "images", "path": str(folder), "split": [0.8, 0.2], "size": [64, 64]}
    assert starter.remarks[0] == "classification: 13 images in 2 classes, a (7), b (6)"
    tables = starter.tables | {"train": {"epochs": 1, "batch_size": 8}}
    assert "validation/worst_error" in train(tables, {"data.size": [8, 8]}).metrics
    with pytest.raises(DataError):
        from_images(folder, tmp_path, "label")
