"""What must hold for BatchNorm beyond what holds for every norm."""

import pytest

from nbutils.layers import BatchNorm
from tests.layers.checks import BATCHNORM_CHECKS


@pytest.mark.parametrize("check", BATCHNORM_CHECKS)
def test_batchnorm(check):
    check(BatchNorm)
