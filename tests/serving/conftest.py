import pytest

from served import serving


@pytest.fixture(scope="module")
def served():
    """One server for a module's tests, which must not depend on each other's contexts."""
    with serving() as server:
        yield server


@pytest.fixture
def client(served):
    with served.http() as http:
        yield http
