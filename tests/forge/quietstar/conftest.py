import pytest

from esper.forge.quietstar import reinforce


@pytest.fixture(autouse=True, scope="package")
def short_first_fit():
    """The baseline is fitted on fewer episodes, in fewer steps, than a phase in earnest needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce, "_FIRST_EPISODES", 32)
        patch.setattr(reinforce, "_FIRST_STEPS", 20)
        yield
