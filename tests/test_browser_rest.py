"""The other half of the notebooks in a real browser, for a second worker."""

import pytest
from browser import NAMES, browser, chromium, drive_notebook, run_notebook, server

__all__ = ["browser", "chromium", "run_notebook", "server"]  # fixtures
pytestmark = pytest.mark.timeout(480)


@pytest.mark.parametrize("name", NAMES[1::2])
def test_every_control_of_a_notebook_works_under_mouse_and_keyboard(run_notebook, name):
    drive_notebook(run_notebook, name)
