"""The data room: seeds, splits, and the order of minibatches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbutils import data


def test_seeds_are_shifted_by_the_environment(monkeypatch):
    monkeypatch.delenv("NBUTILS_SEED", raising=False)
    plain = data.seeds(3)
    monkeypatch.setenv("NBUTILS_SEED", "2")
    assert plain == [0, 1, 2]
    assert not set(plain) & set(data.seeds(1000))


@pytest.mark.parametrize("value", ["-1", "one", "", "1.5"])
def test_a_bad_seed_says_what_came(monkeypatch, value):
    monkeypatch.setenv("NBUTILS_SEED", value)
    with pytest.raises(ValueError, match="NBUTILS_SEED must be a whole number"):
        data.seeds(1)


def test_no_seeds():
    with pytest.raises(ValueError, match="count >= 1, got 0"):
        data.seeds(0)


@pytest.mark.parametrize(("images", "shape"), [(False, (64,)), (True, (1, 8, 8))])
def test_digits_are_split_and_standardized_by_the_training_part(images, shape):
    split = data.digits(images=images)
    assert split.x_train.shape == (1297, *shape)
    assert split.x_test.shape == (500, *shape)
    assert split.x_train.mean().abs() < 1e-5
    assert (split.x_train.std() - 1).abs() < 1e-5
    assert split.x_test.mean().abs() > 1e-5  # its own mean would be a leak
    assert set(split.y_train.tolist()) == set(split.y_test.tolist()) == set(range(10))


def test_another_seed_is_another_split():
    assert not torch.equal(data.digits(0).y_test, data.digits(1).y_test)
    assert torch.equal(data.digits(3).x_test, data.digits(3).x_test)


def test_photographs_are_colour_images_from_0_to_1():
    small, large = data.photographs(48), data.photographs()
    assert small.shape == (2, 3, 48, 72)
    assert large.shape == (2, 3, 96, 144)
    assert small.dtype == torch.float32
    assert small.min() >= 0
    assert small.max() <= 1
    # Means over areas that tile the photograph: the mean of a channel does not depend on the size.
    torch.testing.assert_close(small.mean((2, 3)), large.mean((2, 3)), rtol=0, atol=0.01)
    sky, flower = large[0, :, :10].mean((1, 2)), large[1].mean((1, 2))
    assert sky[2] > 0.6  # the sky above the temple is bright, and blue
    assert flower[2] < flower[1]  # the leaves behind the flower are green


@pytest.mark.parametrize("height", [0, -2, 33, 428])
def test_photographs_of_another_height_say_what_came(height):
    with pytest.raises(ValueError, match=f"even number from 2 to 426, got {height}"):
        data.photographs(height)


@given(n=st.integers(1, 40), steps=st.integers(0, 30), seed=st.integers(0, 5), part=st.data())
def test_every_epoch_is_a_permutation(n, steps, seed, part):
    size = part.draw(st.integers(1, n))
    order = data.minibatches(n, size, steps, seed)
    assert order.shape == (steps, size)
    per_epoch = n // size
    for start in range(0, steps, per_epoch):
        epoch = order[start : start + per_epoch].flatten().tolist()
        assert len(set(epoch)) == len(epoch)
        assert all(0 <= index < n for index in epoch)


def test_every_epoch_has_an_order_of_its_own():
    epochs = data.minibatches(50, 10, 20, 0).view(4, 50)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_seeds_give_other_orders():
    assert not torch.equal(data.minibatches(50, 5, 9, 0), data.minibatches(50, 5, 9, 1))


@pytest.mark.parametrize(("size", "steps"), [(0, 1), (11, 1), (5, -1)])
def test_bad_minibatches(size, steps):
    with pytest.raises(ValueError, match=f"got {size if steps > 0 else steps}"):
        data.minibatches(10, size, steps, 0)
