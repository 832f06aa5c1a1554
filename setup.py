"""The project is described in pyproject.toml. This file makes ``pip install -e`` work beside the checkout.

The parent folder of a clone named prune_gym holds a folder of the package's name. Python started there would take that folder
for an empty namespace package, since setuptools puts the finder of an editable install behind Python's own. Here the finder
goes in front.
"""

from setuptools import setup
from setuptools.command import editable_wheel as setuptools_editable

LAST, FIRST = "sys.meta_path.append(_EditableFinder)", "sys.meta_path.insert(0, _EditableFinder)"


class EditableWheel(setuptools_editable.editable_wheel):
    """An editable install whose finder is asked first."""

    def run(self) -> None:
        template = setuptools_editable._FINDER_TEMPLATE
        if template.count(LAST) != 1:
            raise RuntimeError(f"expected one {LAST!r} in the finder of setuptools; this version is not supported.")
        setuptools_editable._FINDER_TEMPLATE = template.replace(LAST, FIRST)
        super().run()


setup(cmdclass={"editable_wheel": EditableWheel})
