"""Columns of a table inside an exported model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import torch

from hookline_plugins.data.tables.exported import parts_of_dates

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def test_the_parts_of_a_date_are_those_of_the_calendar() -> None:
    times = [EPOCH + timedelta(days=day * 37, hours=day % 24, microseconds=day % 3) for day in range(-1900, 2100)]
    times += [datetime(year, 3, 1, tzinfo=UTC) - timedelta(days=1) for year in range(1600, 2401, 4)]
    days = torch.tensor([(time - EPOCH) / timedelta(days=1) for time in times], dtype=torch.float64)
    expected = [[time.year, time.month, time.day, time.isoweekday(), time.hour] for time in times]
    parts = torch.stack(parts_of_dates(days), dim=1)
    assert parts[:, 1:].tolist() == expected
    assert torch.equal(parts[:, 0], days)


def test_the_parts_of_a_missing_date_are_missing() -> None:
    assert all(part.isnan().all() for part in parts_of_dates(torch.tensor([torch.nan], dtype=torch.float64)))
