"""Intervals and tests equal those of statsmodels, and margins those that were computed beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.proportion import proportion_confint

from builder.gate.statistics import bootstrap, mcnemar, power, smallest_margin, tango_low, wilson

Pairs = st.integers(1, 400).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(n), st.just(b), st.integers(0, n - b)))
)


@settings(deadline=None)
@given(
    st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95, 0.99])
)
def test_wilson_is_statsmodels(fraction: tuple[int, int], confidence: float) -> None:
    found = wilson(*fraction, confidence)
    assert found is not None
    assert found == pytest.approx(proportion_confint(*fraction, alpha=1 - confidence, method="wilson"), abs=1e-12)


def test_the_figures_of_the_card() -> None:
    assert wilson(162, 183) == pytest.approx((0.831, 0.924), abs=5e-4)
    assert wilson(3, 4) == pytest.approx((0.30, 0.95), abs=5e-3)
    assert wilson(0, 0) is None
    assert [round(power(183, 0.1, margin), 2) for margin in (0.02, 0.05, 0.08)] == [0.21, 0.69, 0.96]
    assert smallest_margin(183, 0.1) == pytest.approx(0.058, abs=5e-4)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels(b: int, c: int) -> None:
    theirs = their_mcnemar([[5, b], [c, 5]], exact=True).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(min(1.0, theirs), abs=1e-9)


def test_the_bootstrap_is_what_drawing_tends_to() -> None:
    n, b, c = 183, 10, 8
    drawn = np.random.default_rng(7).multinomial(n, [c / n, (n - b - c) / n, b / n], size=200_000)
    differences = (drawn[:, 2] - drawn[:, 0]) / n
    found = bootstrap(b, c, n)
    assert found == pytest.approx(tuple(np.quantile(differences, [0.05, 0.95])), abs=1.01 / n)


@settings(deadline=None)
@given(Pairs)
def test_intervals_of_differences_hold_the_difference(pairs: tuple[int, int, int]) -> None:
    n, b, c = pairs
    found = bootstrap(b, c, n)
    assert found is not None
    assert -1 <= found[0] <= (b - c) / n + 1.01 / n
    assert (b - c) / n - 1.01 / n <= found[1] <= 1
    assert tango_low(b, c, n) <= (b - c) / n


def test_no_discordant_pair_is_no_proof_when_pairs_are_few() -> None:
    assert bootstrap(0, 0, 3) == (0, 0)
    assert tango_low(0, 0, 3) == pytest.approx(-0.474, abs=1e-3)
    assert tango_low(0, 0, 183) == pytest.approx(-0.0146, abs=1e-4)
    assert smallest_margin(3, 0.0) == pytest.approx(0.474, abs=1e-3)
    assert bootstrap(0, 0, 0) is None
    assert smallest_margin(0, 0.0) is None


def test_tango_is_near_the_normal_interval_where_pairs_are_many() -> None:
    n, b, c = 5000, 300, 250
    error = ((b + c - (b - c) ** 2 / n) ** 0.5) / n
    assert tango_low(b, c, n) == pytest.approx((b - c) / n - 1.645 * error, abs=5e-4)
