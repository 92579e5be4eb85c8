# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Contract tests for providers and authenticators, to be subclassed in the test suite of a plugin (docs/plugins.md).

Needs `pip install clusterodm[testing]`.
"""

try:
    import pytest
    import pytest_asyncio  # noqa: F401 - the suites need it
except ImportError as error:
    raise ImportError(f"clusterodm.testing.contract needs {error.name}: pip install clusterodm[testing]") from None

pytest.register_assert_rewrite(f"{__name__}.authenticators", f"{__name__}.providers")

from clusterodm.testing.contract.authenticators import AuthenticatorBackend, AuthenticatorContract  # noqa: E402 - above
from clusterodm.testing.contract.providers import ProviderBackend, ProviderContract  # noqa: E402 - above

__all__ = ["AuthenticatorBackend", "AuthenticatorContract", "ProviderBackend", "ProviderContract"]
