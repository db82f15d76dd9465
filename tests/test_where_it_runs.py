"""attnlab runs from every folder, as a wheel, and without home, git, UTF-8 or right to write."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from attnlab import paths
from attnlab.errors import AttnlabError

ROOT = Path(__file__).resolve().parents[1]
DATA = ("runs/*.jsonl", "models/*/*.*", "chains/*.json", "README.md")
SMOKE = ("study", "run", "language-model", "--scale", "smoke", "--variants", "identity")
PLACES = "from attnlab import paths as p; print(p.RUNS, p.OWN_RUNS, p.cache_folder(), sep='\\n')"


def copy_checkout(to: Path) -> Path:
    """Copy what a checkout needs to run and to be built; no cache and no notebooks' outputs."""
    ignored = shutil.ignore_patterns("__pycache__", "cache")
    for name in ("attnlab", "data"):
        shutil.copytree(ROOT / name, to / name, ignore=ignored)
    (to / "notebooks").mkdir()
    (to / "figures").mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)
    return to


def build(kind: str, checkout: Path, to: Path) -> Path:
    """Build a wheel, ``editable`` or not, with the tools that are here, and unpack it."""
    to.mkdir(parents=True)
    code = f"from setuptools import build_meta as b; b.build_{kind}({str(to)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True, capture_output=True)
    (wheel,) = to.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(to / "site")
    return to / "site"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout in a folder of the package's name."""
    return copy_checkout(tmp_path_factory.mktemp("above") / "attnlab")


@pytest.fixture(scope="module")
def site(checkout, tmp_path_factory):
    """A folder as site-packages are after the wheel was installed."""
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel") / "built")


def run(package: Path, *words: str, cwd: Path, before=(), **changes: str | None) -> list[str]:
    """Run Python with one attnlab on its path and a home of its own; return what it printed."""
    removed = ("ATTNLAB_HOME", "ATTNLAB_DATA", "XDG_DATA_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"HOME": str(package.parent / "home"), "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in (environment | changes).items() if v is not None}
    done = subprocess.run(
        [*before, sys.executable, *words], cwd=cwd, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode("utf-8", errors="replace").splitlines()


def without_right_to_override() -> tuple[str, ...]:
    """Return the words that take from root what lets it write where nobody may."""
    if getattr(os, "geteuid", lambda: 1)() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("not on Windows: root may write everywhere, and there is no setpriv")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


# From every folder


@pytest.mark.parametrize("folder", ["..", ".", "notebooks", "/"])
def test_the_same_package_is_imported_from_every_folder(checkout, folder):
    code = "import attnlab; print(attnlab.__file__, attnlab.__version__); " + PLACES
    said = run(checkout, "-c", code, cwd=checkout / folder)
    assert said[0].startswith(str(checkout / "attnlab" / "__init__.py"))
    runs, cache = checkout / "data" / "runs", checkout / "data" / "cache"
    assert said[1:] == [str(runs), str(runs), str(cache)]
    assert "0.1.0" in said[0]


def test_an_editable_install_beats_a_namespace_of_its_name(checkout, tmp_path):
    site = build("editable", checkout, tmp_path / "built")
    (pth,) = site.glob("*.pth")
    assert Path(pth.read_text().strip()).resolve() == checkout
    code = f"import site; site.addsitedir({str(site)!r}); import attnlab; print(attnlab.__file__)"
    # -S: without the attnlab that is installed here
    (found,) = run(checkout, "-S", "-c", code, cwd=checkout.parent, PYTHONPATH=None)
    assert Path(found).resolve() == checkout / "attnlab" / "__init__.py"


def test_the_command_runs_above_the_checkout(checkout):
    said = run(checkout, "-m", "attnlab", "doctor", cwd=checkout.parent)
    assert said[-1] == "All is well."


# As a wheel


def test_a_wheel_carries_the_data_that_notebooks_read_and_stays_small(site):
    wanted = {file.relative_to(ROOT) for each in DATA for file in (ROOT / "data").glob(each)}
    packed = {file.relative_to(site / "attnlab") for file in site.glob("attnlab/data/**/*.*")}
    assert packed == wanted
    (wheel,) = site.parent.glob("*.whl")
    assert wheel.stat().st_size < 20e6  # of these the translators of captions are 12


def test_a_wheel_reads_its_own_data_and_writes_to_the_users_folder(site, tmp_path):
    def files():
        return sorted(path for path in site.rglob("*") if path.is_file())

    packed, home = files(), site.parent / "home"
    commands = [("study", "report"), ("figure", "fair-ground"), SMOKE, SMOKE, ("doctor",)]
    code = f"from attnlab.cli import main; print([main(words) for words in {commands!r}])"
    said = run(site, "-c", code, cwd=tmp_path)
    assert said[-1] == "[0, 0, 0, 0, 0]"
    assert (tmp_path / "my-figures" / "fair-ground.svg").is_file()
    (written,) = home.rglob("*.jsonl")
    assert len(written.read_text(encoding="utf-8").splitlines()) == 1  # the second run saw it
    assert any(str(written.parent) in line and "records go to" in line for line in said)
    assert files() == packed
    code = f"from attnlab.records import *; print(len(load_runs())); {PLACES}"
    n_runs, runs, own, cache = run(site, "-c", code, cwd=tmp_path)
    shipped = sum(len(file.read_bytes().splitlines()) for file in Path(runs).glob("*.jsonl"))
    assert int(n_runs) == shipped + 1
    assert Path(own) == written.parent
    assert Path(cache).is_relative_to(home)


def test_records_of_a_wheel_from_git_name_the_commit_that_pip_noted(site, tmp_path):
    (folder,) = site.glob("*.dist-info")
    note = {"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef" * 2}}
    code = "from attnlab.records import commit; print(commit())"
    assert run(site, "-c", code, cwd=tmp_path) == ["unknown"]
    (folder / "direct_url.json").write_text(json.dumps(note), encoding="utf-8")
    try:
        assert run(site, "-c", code, cwd=tmp_path) == ["0123456789ab"]
    finally:
        (folder / "direct_url.json").unlink()


def test_a_wheel_near_a_checkout_uses_its_data_and_no_other_folder_of_that_shape(
    site, checkout, tmp_path
):
    assert run(site, "-c", PLACES, cwd=checkout / "notebooks")[1] == str(checkout / "data/runs")
    (tmp_path / "data" / "runs").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    assert run(site, "-c", PLACES, cwd=tmp_path)[0] == str(site / "attnlab" / "data" / "runs")


# Where something is missing


def test_a_checkout_that_cannot_be_written_is_read_and_all_else_goes_home(tmp_path):
    before = without_right_to_override()
    checkout = copy_checkout(tmp_path / "attnlab")
    folders = [path for path in checkout.rglob("*") if path.is_dir()]
    for path in (checkout, *folders):
        path.chmod(0o555)
    try:
        code = f"from attnlab.cli import main; print(main(['doctor']), main({SMOKE!r})); {PLACES}"
        said = run(checkout, "-c", code, cwd=checkout, before=before)
    finally:
        for path in (checkout, *folders):
            path.chmod(0o755)
    assert "0 0" in said
    assert [line for line in said if line.startswith("This checkout cannot be written")]
    assert said[-3] == str(checkout / "data" / "runs")
    assert all(Path(line).is_relative_to(tmp_path / "home") for line in said[-2:])
    assert list((tmp_path / "home").rglob("language-model.jsonl"))


def test_blanks_and_umlauts_another_owner_no_git_and_a_locale_of_ascii(tmp_path):
    checkout = copy_checkout(tmp_path / "mit Blank" / "süße Äpfel" / "attnlab")
    (tmp_path / "nothing").mkdir()
    commands = [("doctor",), ("list",), SMOKE]
    code = f"from attnlab.cli import main; print([main(words) for words in {commands!r}])"
    ascii_only = {"LANG": "C", "LC_ALL": "C"}
    if sys.prefix.isascii():  # else torch, below a path that it cannot spell, would not start
        ascii_only |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    nothing = {"PATH": str(tmp_path / "nothing"), "HOME": None}
    said = run(checkout, "-c", code, cwd=checkout, **ascii_only, **nothing)
    assert said[-1] == "[0, 0, 0]"
    last = (checkout / "data/runs/language-model.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(last[-1])["commit"] == "unknown"  # no git on the path


def test_git_that_refuses_the_checkout_of_another_user_is_no_error(checkout, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git: the test asks what it says of another user's checkout")
    there = tmp_path / "attnlab"
    shutil.copytree(checkout / "attnlab", there / "attnlab")
    subprocess.run(["git", "init", "-q", there], check=True)
    code = "from attnlab.records import commit; print(commit())"
    said = run(there, "-c", code, cwd=there, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert said == ["unknown"]


def test_without_a_home_the_temporary_folder_is_used_and_said_to_be_one(site, tmp_path):
    code = f"{PLACES}; print(p.where_written())"
    homeless = {"HOME": os.devnull, "TMPDIR": str(tmp_path), "USERPROFILE": os.devnull}
    said = run(site, "-c", code, cwd=tmp_path, **homeless)
    assert all(Path(line).is_relative_to(tmp_path) for line in said[1:3])
    assert "temporary; to keep them set ATTNLAB_HOME" in said[3]


def test_a_named_folder_takes_everything_or_is_refused_by_name(site, tmp_path, monkeypatch):
    said = run(site, "-c", PLACES, cwd=tmp_path, ATTNLAB_HOME=str(tmp_path / "mine"))
    assert said[1:] == [str(tmp_path / "mine" / name) for name in ("runs", "cache")]
    monkeypatch.setenv("ATTNLAB_HOME", str(tmp_path / "file" / "below"))
    (tmp_path / "file").touch()
    with pytest.raises(AttnlabError, match=r"ATTNLAB_HOME is .*nothing can be written"):
        paths.cache_folder()


def test_a_shell_whose_folder_is_gone_imports_all_the_same(site, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir(os.getcwd()); {PLACES}"
    assert run(site, "-c", code, cwd=gone)[0] == str(site / "attnlab" / "data" / "runs")
