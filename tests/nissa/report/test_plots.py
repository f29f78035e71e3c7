import re

import numpy as np
import pytest

from esper.nissa.report.plots import FOR_NAMES, Plot, picture, span, tick_texts, ticks


def paths(plot: Plot) -> list[str]:
    """What was added to a plot, the axes left out."""
    return re.findall(r'<path d="([^"]*)"', plot.svg())[1:]


@pytest.fixture
def plot() -> Plot:
    """From (46, 262) to (680, 26) for (0, 0) to (10, 100)."""
    return Plot("accuracy, %", (0, 10), (0, 100), (700, 300))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 25, ["0", "5", "10", "15", "20", "25"]),
        (0, 1.05, ["0.0", "0.5", "1.0"]),
        (-3, 3900, ["0", "1,000", "2,000", "3,000"]),
        (0, 160_000, ["0", "50k", "100k", "150k"]),
        (1_234_000, 1_236_000, ["1,234,000", "1,234,500", "1,235,000", "1,235,500", "1,236,000"]),
        (0.81, 0.89, ["0.82", "0.84", "0.86", "0.88"]),
        (-0.3, 0.1, ["-0.3", "-0.2", "-0.1", "0.0", "0.1"]),
        (2e-6, 9e-6, ["2e-06", "4e-06", "6e-06", "8e-06"]),
    ],
)
def test_axes_are_labelled_with_round_numbers(low: float, high: float, texts: list[str]) -> None:
    assert tick_texts(ticks(low, high, 5)) == texts


@pytest.mark.parametrize("most", [0, 1, 3, 9])
def test_there_are_always_two_numbers_on_an_axis(most: int) -> None:
    for low, high in ((0.3, 0.7), (1, 7.03), (-1e-9, 1e-9), (1e12, 1e12 + 1)):
        found = ticks(low, high, most)
        assert len(found) > 1 and low - 1e-9 <= found.min() and found.max() <= high + 1e-9
        assert len(set(tick_texts(found))) == len(found), "no two of them read alike"
    assert np.array_equal(ticks(0, 2, 9, whole=True), [0, 1, 2])


def test_the_span_leaves_room_but_not_beyond_what_can_be() -> None:
    assert span(np.array([10.0, np.nan, 60.0])) == pytest.approx((6, 64))
    assert span(np.array([1.0, 99.0]), 0, 100) == (0, 100)
    for flat in (np.zeros(3), np.full(3, 1e-4), np.full(2, np.nan), np.array([])):
        low, high = span(flat)
        assert low < high


def test_what_does_not_differ_looks_so() -> None:
    assert span(np.zeros(3), least=2.0) == (-1.0, 1.0)
    assert span(np.array([0.0, 0.1]), least=2.0) == pytest.approx((-0.95, 1.05))
    assert span(np.array([0.0, 100.0]), least=2.0) == (-8.0, 108.0)


def test_negative_numbers_have_a_minus_sign_and_names_keep_their_hyphens(plot: Plot) -> None:
    plot.names(5, [(50.0, "run-2 -3.5", "red")])
    assert "run-2 \N{MINUS SIGN}3.5" in plot.svg()
    axes = Plot("points", (0, 10), (-5, 5), (700, 300)).svg()
    assert ">\N{MINUS SIGN}4<" in axes and ">-4<" not in axes


def test_a_curve_is_broken_where_a_value_is_missing(plot: Plot) -> None:
    plot.lines(np.arange(6), np.array([0, 100, np.nan, 50, np.nan, 0]), "red", 1)
    assert paths(plot) == ["M46.0 262.0L109.4 26.0h0M236.2 144.0h0M363.0 262.0h0"], "a lone point is a dot"


def test_a_band_stays_within_the_axes(plot: Plot) -> None:
    plot.band(np.array([0, 10]), np.array([-500.0, 50.0]), np.array([0.0, 900.0]), "red")
    assert paths(plot) == ["M46.0 262.0L680.0 144.0L680.0 26.0L46.0 262.0Z"]


def test_layers_stand_on_each_other(plot: Plot) -> None:
    plot.stack([(np.array([50.0, 0.0]), "red"), (np.array([50.0, 100.0]), "blue")])
    first, second = paths(plot)
    assert first.startswith("M46.0 262.0L109.4 262.0") and first.endswith("L109.4 144.0L46.0 144.0Z")
    assert second.startswith("M46.0 144.0L109.4 144.0L109.4 262.0") and second.endswith("L109.4 26.0L46.0 26.0Z")


@pytest.mark.parametrize("values", [(50, 50), (0, 0), (100, 100), (49, 51)])
def test_names_of_curves_do_not_overlap(values: tuple[float, float]) -> None:
    plot = Plot("accuracy, %", (0, 10), (0, 100), (700, 300), right=FOR_NAMES)
    plot.names(10, [(values[0], "twin", "grey"), (values[1], "grown", "green"), (float("nan"), "nobody", "red")])
    heights = {name: float(y) for y, name in re.findall(r'y="([\d.]+)"[^>]*>(twin|grown|nobody)<', plot.svg())}
    assert heights.keys() == {"twin", "grown"}
    assert abs(heights["twin"] - heights["grown"]) >= 14 and max(heights.values()) <= 266
    assert values[0] == values[1] or heights["grown"] < heights["twin"], "the greater value is the upper one"


def test_a_picture_of_several_plots_is_a_grid(plot: Plot) -> None:
    svg = picture('a "grid" & more', plot, plot, plot, columns=2)
    assert 'viewBox="0 0 1400 600"' in svg and 'aria-label="a &quot;grid&quot; &amp; more"' in svg
    assert re.findall(r"translate\(([^)]*)\)", svg) == ["0 0", "700 0", "0 300"]


def test_one_place_alone_is_drawn() -> None:
    plot = Plot("return", (3, 3), (0, 1), (700, 300), across="update")
    plot.lines(np.array([3, 3]), np.array([[0.5, 0.6]]), "black", 1.0)
    assert ">3<" in plot.svg()
