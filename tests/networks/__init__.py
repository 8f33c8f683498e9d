"""The layers, by subject. What the tests share: `cases`, `checks` and `mutants`."""

import pytest

pytest.register_assert_rewrite("layers.cases", "layers.checks")
