"""Marks of single cases."""

from typing import Any

import pytest


def slow(*values: Any, id: str | None = None) -> Any:
    """A case that only `make test-slow` runs: another like it is among the fast tests."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)
