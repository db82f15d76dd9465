"""nbval with notebooks/conftest.py sees what it should see, and forgives only rounding."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "90_fixture.ipynb"


@pytest.fixture(scope="module")
def rounding():
    """The comparison of texts, without putting the patches of the conftest into this process."""
    from nbval import plugin

    before = plugin.IPyNbCell.compare_outputs, plugin.IPyNbFile.get_kernel_message, dict(os.environ)
    spec = importlib.util.spec_from_file_location("rounding", ROOT / "notebooks" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.same_within_rounding
    plugin.IPyNbCell.compare_outputs, plugin.IPyNbFile.get_kernel_message = before[:2]
    os.environ.clear()
    os.environ.update(before[2])


SAME = ["loss 1.234|loss 1.235", "1e-05 and 2|1e-05 and 2", "1.50e-05|1.51e-05", "-0.001|0.000"]
SAME += ["[0.1, 0.2]|[0.2, 0.1]"]
OTHER = ["loss 1.234|loss 1.236", "7 layers|8 layers", "loss 1.234|cost 1.234", "1.234|1.234 1.234"]
OTHER += ["1.50e-05|1.50e-06", "v1.25|v1.26", "0.1|nan"]


@pytest.mark.parametrize("pair", [*SAME, *OTHER])
def test_one_unit_in_the_last_place_is_forgiven_and_no_more(rounding, pair):
    assert rounding(*pair.split("|")) == (pair in SAME)


@given(value=st.floats(-1e6, 1e6), places=st.integers(1, 6), units=st.integers(2, 9))
def test_two_units_in_the_last_place_are_never_forgiven(rounding, value, places, units):
    printed = f"{value:.{places}f}"
    other = f"{float(printed) + units * 10.0**-places:.{places}f}"
    assert rounding(printed, printed)
    assert not rounding(printed, other)


# Statements that change a stored notebook. Those that should pass:
HARMLESS = """
code[1].outputs[0].text = code[1].outputs[0].text.replace("1.7918", "1.7919")
code[0].outputs[0].text = "Device: another card. torch 9.9.\\n"
code[5].source += "\\nwith w.Output():\\n    print('routed to the widget')"
code[3].source += "\\nw.interact(lambda n: print(n), n=(1, 3))"
code[3].outputs = [code[5].outputs[0]]
code[3].metadata.tags = ["nbval-ignore-output"]
code[2].source = "import socket\\nfrom pytest import raises\\n"
code[2].source += "with raises(OSError, match='run offline'):\\n"
code[2].source += "    socket.create_connection(('192.0.2.1', 80), timeout=1)"
"""
# And those that should fail. Cells run on after one that failed, so one kernel serves several.
HARMFUL = {
    "first": {
        "Cell 1": 'code[1].outputs[0].text = code[1].outputs[0].text.replace("1.7918", "1.7928")',
        "Cell 4": 'del code[4].outputs[0].data["image/png"]',
        "Cell 5": r"""code[5].source += "\nwith w.Output():\n    raise ValueError('hidden')" """,
    },
    "second": {
        "Cell 1": 'code[1].source = code[1].source.replace("{h:.4f}", "{1.001 * h:.4f}")',
        "Cell 4": "code[4].outputs.append(code[4].outputs[0])",
        "Cell 5": "code[5].outputs = []",
    },
}


def run_nbval(folder: Path, *options: str) -> str:
    """Run pytest over the notebooks of a folder and return what it prints."""
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-q", "-rA"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "offline")}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def write_changed(target: Path, changes: str) -> None:
    notebook = nbformat.read(FIXTURE, as_version=4)
    for change in changes.strip().splitlines():
        before = str(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        exec(change, {"code": code, "v4": nbformat.v4})
        assert str(notebook) != before, change
    nbformat.write(notebook, target)


def failed_cells(printed: str, stem: str) -> set[str]:
    return set(re.findall(rf"(?m)^FAILED .*\b{stem}\.ipynb::(Cell \d+)", printed))


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> str:
    """What nbval says of every mutation, in one go."""
    folder = tmp_path_factory.mktemp("mutations")
    write_changed(folder / "harmless.ipynb", HARMLESS)
    for name, changes in HARMFUL.items():
        write_changed(folder / f"{name}.ipynb", "\n".join(changes.values()))
    return run_nbval(folder)


def test_rounding_versions_output_widgets_and_loopback_pass(printed):
    assert failed_cells(printed, "harmless") == set()
    assert len(re.findall(r"(?m)^PASSED .*harmless", printed)) == 8


@pytest.mark.parametrize("name", HARMFUL)
def test_a_real_difference_fails_its_cell_and_no_other(printed, name):
    assert failed_cells(printed, name) == set(HARMFUL[name])


def test_lax_compares_only_cells_that_ask_for_it(tmp_path):
    changes = "code[2].outputs = [v4.new_output('stream', text='never printed')]\n"
    write_changed(tmp_path / "lax.ipynb", changes + "code[1].outputs[0].text = 'wrong'")
    assert failed_cells(run_nbval(tmp_path, "--nbval-lax"), "lax") == {"Cell 1"}
