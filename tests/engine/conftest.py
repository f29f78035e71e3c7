import pytest

from esper.engine.kernels import native


@pytest.fixture(params=["native", "torch"])
def kernels(request, monkeypatch):
    """Both ways to compute: the compiled kernels, and torch operations alone."""
    if request.param == "torch":
        monkeypatch.setattr(native, "is_supported", lambda x: False)
    elif native.load()[0] is None:
        pytest.skip(native.load()[1])
    return request.param
