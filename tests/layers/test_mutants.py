"""Every planted mistake is caught by the check that is meant for it."""

import pytest
from torch.autograd.gradcheck import GradcheckError

from nbutils.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from tests.layers import mutants
from tests.layers.checks import (
    BATCHNORM_CHECKS,
    check_buffers_have_no_history,
    check_cumulative_average,
    check_eval_changes_nothing,
    check_gradcheck,
    check_gradient_at_large_mean,
    check_half_precision,
    check_half_precision_is_pytorchs,
    check_large_mean,
    check_layout_is_pytorchs,
    check_modes,
    check_no_state,
    check_one_value_per_channel,
    check_running_statistics,
    check_small_values_in_every_dtype,
    check_values_and_gradients,
)

planted = mutants.with_standardize
BATCHNORM_MUTANTS = [
    (mutants.BiasedRemembered, check_running_statistics),
    (
        planted(BatchNorm, mutants.unbiased_for_the_batch),
        check_values_and_gradients,
    ),
    (planted(BatchNorm, mutants.detached_statistics), check_gradcheck),
    (planted(BatchNorm, mutants.square_minus_square), check_large_mean),
    (planted(BatchNorm, mutants.eps_outside_the_root), check_values_and_gradients),
    (
        planted(BatchNorm, mutants.statistics_in_half_precision),
        check_half_precision,
    ),
    (planted(BatchNorm, mutants.one_axis_too_few), check_values_and_gradients),
    (planted(BatchNorm, mutants.one_axis_too_many), check_values_and_gradients),
    (mutants.LeakingBuffer, check_buffers_have_no_history),
    (mutants.ModeByGrad, check_modes),
    (mutants.AveragedStd, check_running_statistics),
    (mutants.ReversedMomentum, check_running_statistics),
    (mutants.UpdatesInEval, check_eval_changes_nothing),
    (mutants.ForgetsToCount, check_running_statistics),
    (mutants.NoneMeansTenPercent, check_cumulative_average),
    (mutants.AcceptsOneValue, check_one_value_per_channel),
    (mutants.ReturnsFloat32, check_half_precision),
]
OTHER_MUTANTS = [
    (planted(kind, replacement), args, shape, check)
    for kind, args, shape in (
        (LayerNorm, ((4, 6),), (3, 4, 6)),
        (GroupNorm, (2, 6), (3, 6, 4)),
        (InstanceNorm, (5,), (3, 5, 4, 2)),
    )
    for replacement, check in (
        (mutants.unbiased_for_the_batch, check_values_and_gradients),
        (mutants.detached_statistics, check_gradcheck),
        (mutants.square_minus_square, check_large_mean),
        (mutants.eps_outside_the_root, check_values_and_gradients),
        (mutants.no_eps, check_values_and_gradients),
        (mutants.statistics_in_half_precision, check_half_precision),
        (mutants.one_axis_too_many, check_values_and_gradients),
    )
]


FEATURE_MUTANTS = [
    (mutants.CentredRMSNorm, (6,), (4, 6), check_values_and_gradients),
    (planted(RMSNorm, mutants.rms_detached), (6,), (4, 6), check_gradcheck),
    (
        planted(RMSNorm, mutants.rms_eps_outside_the_root),
        (6,),
        (4, 6),
        check_small_values_in_every_dtype,
    ),
    (planted(RMSNorm, mutants.no_eps), (6,), (4, 6), check_small_values_in_every_dtype),
    (
        planted(RMSNorm, mutants.rms_in_half_precision),
        (6,),
        (4, 6),
        check_half_precision_is_pytorchs,
    ),
    (planted(RMSNorm, mutants.sum_of_squares), (6,), (4, 6), check_values_and_gradients),
    (planted(RMSNorm, mutants.one_axis_too_many), (6,), (4, 6), check_no_state),
    (mutants.EpsOfTheInput, (6,), (4, 6), check_small_values_in_every_dtype),
    (mutants.EpsLikeLayerNorm, (6,), (4, 6), check_small_values_in_every_dtype),
    (mutants.ForgetsTheBias, (6,), (4, 6), check_values_and_gradients),
    (mutants.RemembersTheMean, (6,), (4, 6), check_no_state),
    (mutants.NeedsContiguous, (6,), (4, 6), check_layout_is_pytorchs),
    (planted(LayerNorm, mutants.detached_statistics), (6,), (4, 6), check_layout_is_pytorchs),
    (planted(LayerNorm, mutants.square_minus_square), (6,), (4, 6), check_gradient_at_large_mean),
    (planted(LayerNorm, mutants.no_eps), (6,), (4, 6), check_small_values_in_every_dtype),
    (
        planted(LayerNorm, mutants.statistics_in_half_precision),
        (6,),
        (4, 6),
        check_half_precision_is_pytorchs,
    ),
    (planted(LayerNorm, mutants.one_axis_too_many), (6,), (4, 6), check_no_state),
]


# A crash of the mutant is none of these. pytest.raises that saw no error raises the second.
CAUGHT = (AssertionError, pytest.fail.Exception, GradcheckError)


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("mutant", "check"), BATCHNORM_MUTANTS, ids=name_of)
def test_batchnorm_mutant_is_caught(mutant, check):
    arguments = (mutant,) if check in BATCHNORM_CHECKS else (mutant, (5,), {}, (4, 5, 3, 2))
    with pytest.raises(CAUGHT):
        check(*arguments)


@pytest.mark.parametrize(("mutant", "args", "shape", "check"), OTHER_MUTANTS, ids=name_of)
def test_other_mutant_is_caught(mutant, args, shape, check):
    with pytest.raises(CAUGHT):
        check(mutant, args, {}, shape)


@pytest.mark.parametrize(("mutant", "args", "shape", "check"), FEATURE_MUTANTS, ids=name_of)
def test_mutant_over_features_is_caught(mutant, args, shape, check):
    with pytest.raises(CAUGHT):
        check(mutant, args, {}, shape)
