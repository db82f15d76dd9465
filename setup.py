"""Put what notebooks read of ``data/`` into a wheel, as ``attnlab/data``."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("runs/*.jsonl", "models/*/*.*", "chains/*.json", "README.md")


class BuildWithData(build_py):
    """The usual step, then the data; an editable install reads them in place."""

    def run(self) -> None:
        """Copy the modules, then the data."""
        super().run()
        if self.editable_mode:
            return
        for file in sorted(file for each in SHIPPED for file in Path("data").glob(each)):
            target = Path(self.build_lib, "attnlab", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithData})
