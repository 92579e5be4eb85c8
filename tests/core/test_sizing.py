# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What memory a task will take."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clusterodm.core.sizing import Forecast, Peak, forecast, options_key

GB = 10**9


def peak(images: int, gigabytes: float, **fields: Any) -> Peak:
    defaults: dict[str, Any] = {"at": 1.0, "megapixels": 20.0, "options": "", "enough": True}
    return Peak(images=images, memory=int(gigabytes * GB), **(defaults | fields))


def test_the_most_that_tasks_like_it_took_is_scaled_to_its_images() -> None:
    peaks = [peak(100, 10), peak(200, 30), peak(1000, 900), peak(100, 50, options="pc-quality=high")]
    assert forecast(200, 20.0, "", peaks) == Forecast(30 * GB, "a task of 200 images like it took 30.0 GB")
    assert forecast(100, 20.0, "pc-quality=high", peaks) == Forecast(
        50 * GB, "a task of 100 images like it took 50.0 GB"
    )


def test_what_was_not_enough_counts_for_more() -> None:
    prediction = forecast(100, 0.0, "", [peak(100, 16, enough=False)])
    assert prediction == Forecast(20 * GB, "a task of 100 images like it was not enough: 16.0 GB")


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert forecast(100, 20.0, "", []) is None
    assert forecast(0, 20.0, "", [peak(100, 16)]) is None
    assert forecast(100, 20.0, "", [peak(1000, 16), peak(10, 16), peak(100, 16, megapixels=100.0)]) is None


def test_only_options_that_matter_tell_tasks_apart() -> None:
    options: list[dict[str, Any]] = [
        {"name": "pc-quality", "value": "high"},
        {"name": "name", "value": "x"},
        {"name": "dsm", "value": True},
    ]
    assert options_key(options) == options_key(options[::-1]) == "dsm=True pc-quality=high"


@given(st.lists(st.builds(peak, st.integers(1, 5000), st.floats(0.1, 500), enough=st.booleans()), max_size=20))
def test_more_images_never_take_less(peaks: list[Peak]) -> None:
    one = forecast(100, 20.0, "", peaks)
    if one is not None:
        assert one.memory > 0
        assert len(one.why) < 200
