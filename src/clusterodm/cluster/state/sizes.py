# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The sizes of machines that can be launched, and the memory that their nodes reported."""

from __future__ import annotations

from collections.abc import Iterable

from clusterodm.core.placement import Capacity
from clusterodm.core.scaling import Offering


class Sizes:
    """What each size takes."""

    def __init__(self, offerings: Iterable[Offering] = ()) -> None:
        self._images = {(offering.provider, offering.size): offering.max_images for offering in offerings}
        #: Bytes of memory by "provider/size".
        self.memory: dict[str, int] = {}

    def memory_of(self, provider: str, size: str) -> int:
        """Return the bytes of memory of a size; 0 if not known yet."""
        return self.memory.get(f"{provider}/{size}", 0)

    def learn(self, provider: str, size: str, memory: int) -> bool:
        """Note the bytes of memory of a size; return True if that is news."""
        news = self.memory_of(provider, size) != memory
        self.memory[f"{provider}/{size}"] = memory
        return news

    def capacities(self) -> list[Capacity]:
        """Return what each size takes."""
        return [Capacity(images, self.memory_of(*size)) for size, images in self._images.items()]
