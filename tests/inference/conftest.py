"""One small random program for the tests of inference, made from a seed by integers."""

import pytest

from inference import program as cip
from inference.build import random_model
from inference.model import Model


@pytest.fixture(scope="session")
def small() -> Model:
    """Grouped-query attention, a width and a head that are no powers of two, an incomplete last layer group."""
    shape = cip.Shape(
        vocabulary=37, context=96, width=24, layers=3, heads=4, kv_heads=2, head_width=6, rotary=6, hidden=40,
        norm_epsilon_q32=42950, layers_per_group=2,
    )  # fmt: skip
    return random_model(shape, 5, stop=(36,))
