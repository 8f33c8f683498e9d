"""What must hold for BatchNorm beyond what holds for every norm."""

import pytest

from layers.checks import BATCHNORM_CHECKS
from nbutils.layers import BatchNorm


@pytest.mark.parametrize("check", BATCHNORM_CHECKS)
def test_batchnorm(check):
    check(BatchNorm)
