# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was accepted against what is held, and what a node counts."""

from __future__ import annotations

import pytest

from clusterodm.core.files import HeldFile, counted_images, describe_losses, describe_none_held

ACCEPTED = [HeldFile(f"{number}.jpg", 10) for number in range(13)]


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (ACCEPTED, ""),
        ([*ACCEPTED, HeldFile("new.jpg", 1)], ""),
        (ACCEPTED[1:], "0.jpg (missing)"),
        ([HeldFile("0.jpg", 9), *ACCEPTED[1:]], "0.jpg (9 of 10 bytes)"),
        ([HeldFile("0.jpg", 11), *ACCEPTED[2:]], "0.jpg (11 of 10 bytes), 1.jpg (missing)"),
        (ACCEPTED[12:], ", ".join(f"{number}.jpg (missing)" for number in range(10)) + " and 2 more"),
    ],
)
def test_what_is_no_longer_held_as_it_was_accepted_is_named(held: list[HeldFile], text: str) -> None:
    assert describe_losses(ACCEPTED, held) == text


@pytest.mark.parametrize(
    ("names", "seeded", "count"),
    [
        (["a.jpg", "b.JPG", "video.mp4", "video.srt", "_body.json", "no extension"], [], 6),
        (["a.jpg", "gcp_list.txt", "GEO.TXT", "image_groups.txt", "anything.txt"], [], 1),
        (["align.las", "align.laz", "align.tif", "ALIGN.LAZ", "align.jpg", "my_align.tif"], [], 2),
        (["a.jpg", "photos.zip", "B.ZIP", "seed.zip"], [], 1),
        (["a.jpg", "seed.zip"], ["images/", "images/a.jpg", "images/b.jpg", "images/more/c.jpg", "opensfm/x"], 3),
        (["a.jpg", "seed.zip"], ["images/gcp.txt", "images/x.zip", "images.json"], 1),
    ],
)
def test_images_are_counted_as_on_a_node(names: list[str], seeded: list[str], count: int) -> None:
    assert counted_images(names, seeded) == count


def test_files_of_which_none_is_held_are_named() -> None:
    assert describe_none_held(ACCEPTED[:1]) == "its file is not held here: 0.jpg"
    assert describe_none_held(ACCEPTED[:2]) == "its 2 files are not held here: 0.jpg, 1.jpg"
