import random

import numpy as np
import pytest
import torch

from lit_decom.isolation import isolated_random_state


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002 -- the global ones are the point


@pytest.mark.parametrize("seed", [None, 0, 7, 2**40, -3])
def test_draws_inside_leave_no_trace(seed):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = draws(), draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    first = draws()
    with isolated_random_state(seed):
        draws()
    assert (first, draws()) == expected


def test_an_exception_inside_leaves_no_trace_either():
    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    expected = draws()
    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    with pytest.raises(TypeError):
        fail_inside()
    assert draws() == expected


def fail_inside():
    with isolated_random_state(5):
        draws()
        raise TypeError


def inside(seed):
    with isolated_random_state(seed):
        return draws()


def test_a_seed_makes_all_three_generators_repeat_themselves():
    first = inside(7)
    draws()
    assert inside(7) == first
    assert all(one != other for one, other in zip(inside(8), first, strict=True))


def test_without_a_seed_the_draws_go_on_where_they_were():
    torch.manual_seed(3)
    assert inside(None)[2] == torch.rand(()).item()


def test_it_nests():
    expected = inside(7)
    with isolated_random_state(7):
        inside(9)
        assert draws() == expected
