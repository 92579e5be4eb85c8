# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""All settings: one model, and where its values come from. Knows nothing of what the settings are for."""

from __future__ import annotations

from clusterodm.settings.loading import RETIRED, load_settings, read_config
from clusterodm.settings.model import Settings, described, env_name, flag_name, is_switch

__all__ = ["RETIRED", "Settings", "described", "env_name", "flag_name", "is_switch", "load_settings", "read_config"]
