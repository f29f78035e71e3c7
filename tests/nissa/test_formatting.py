import pytest

from esper.nissa.formatting import compact


@pytest.mark.parametrize(
    ("value", "said"),
    [(1030, "1,030"), (9_999.7, "10,000"), (118_000, "118k"), (999_999, "1M"), (2.4e6, "2.4M"), (-999_999, "-1M")],
)
def test_a_number_keeps_three_digits_and_the_suffix_they_need(value, said):
    assert compact(value) == said
