"""What holds for every test: one thread, no network, no silent skip, no uninitialised memory."""

import os
import sys
from pathlib import Path

# Before torch is imported: two workers with two spinning threads each take 20 times longer.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ATTNLAB_MODE"] = "fast"
os.environ["ATTNLAB_STRICT"] = "1"  # a failed check of an exercise fails its test

import hypothesis
import loopback_only
import matplotlib
import pytest

pytest.register_assert_rewrite("chapter_tests")
matplotlib.use("agg")  # not through MPLBACKEND, which the kernels of notebooks would inherit

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ROOT.parent / "shared" / "data"  # corpora beside the checkout, where there are any
if BESIDE.is_dir():
    os.environ.setdefault("ATTNLAB_DATA", str(BESIDE))

# Every reason for which a test may be skipped. A skip whose text starts with none of these fails.
SKIP_REASONS = {
    "corpus not here": "the test reads real data, which is never committed; set ATTNLAB_DATA",
    "no Chromium": "the browser test needs the distribution's chromium package",
    "no notebook": "the notebook that the test is about is not in this checkout",
    "no CUDA": "the test compares devices and needs a graphics card",
    "no second device": "the test needs two devices or two processes that can talk",
    "no Dask": "the test sweeps over processes of Dask, an extra that is not installed",
    "no git": "the test asks git about the checkout, and there is no git or no repository",
    "no make": "the test runs the Makefile",
    "no Node": "the test needs Node, which is not on this machine",
    "not on Windows": "the test uses signals or shell scripts of Unix",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the browser and the notebooks: with small files last, workers end together."""
    items.sort(
        key=lambda item: (
            not item.path.name.startswith("test_browser"),
            item.path.suffix != ".ipynb",
        )
    )


hypothesis.settings.register_profile(
    "attnlab", deadline=None, max_examples=25, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("attnlab")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    loopback_only.block(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def _no_uninitialised_memory():
    """Fill ``torch.empty`` with NaN, so that a forgotten initialisation is seen."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


def pytest_generate_tests(metafunc):
    """Run the tests that a class inherits from ``chapter_tests.ChapterTests`` for its tables."""
    if {"shown_picture", "panel", "exercise"} & set(metafunc.fixturenames):
        import chapter_tests

        chapter_tests.parametrize(metafunc)


@pytest.fixture
def shown(monkeypatch):
    """Collect what ``show`` and the panels display, as pairs of thing and options."""
    from attnlab.show import boards, panels, pictures
    from attnlab.teach import notation, quiz

    things = []

    def collect(thing, **options):
        things.append((thing, options))

    for module in (boards, panels, pictures, notation, quiz):
        monkeypatch.setattr(module, "display", collect)
    monkeypatch.setenv("ATTNLAB_WIDGETS", "on")
    return things


@pytest.fixture
def corpus_folder():
    """Return a function from a set's folder name to its path; skips where it is not here."""

    def find(name: str) -> Path:
        for folder in os.environ.get("ATTNLAB_DATA", "").split(os.pathsep):
            if folder and (Path(folder) / name).is_dir():
                return Path(folder) / name
        pytest.skip(f"corpus not here: {name} (set ATTNLAB_DATA to the folder that holds it)")

    return find


def undocumented_skip(report) -> str | None:
    """Return the reason of a skip that ``SKIP_REASONS`` does not list."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    return None if reason.startswith(tuple(SKIP_REASONS)) else reason


def fail_undocumented_skip(report) -> None:
    """Turn a skip for a reason that nobody wrote down into a failure."""
    reason = undocumented_skip(report)
    if reason is not None:
        report.outcome = "failed"
        report.longrepr = (
            f"Skipped for a reason that tests/conftest.py does not list: {reason!r}. "
            "Start it with a reason of SKIP_REASONS, or add one there."
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    fail_undocumented_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    fail_undocumented_skip(report)
    return report
