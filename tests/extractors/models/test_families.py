"""The dispatcher: names of families and options, and what it imports."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from icrkit_extractors import models
from icrkit_extractors.models._network import Network


@pytest.mark.parametrize("family", models.FAMILIES)
def test_every_family_has_a_function_with_the_same_first_parameters(family):
    options = models.options(family)
    assert not {"model", "checkpoint", "code"} & set(options)
    # A name on a command line is all that there may be: every option has a default.
    assert inspect.Parameter.empty not in options.values()


def test_a_wrong_family_gives_the_nearest():
    with pytest.raises(
        ValueError, match=r"no family 'diffuser'; nearest: diffusers\. Families: edm, sit, dit, diffusers"
    ):
        models.load("diffuser", "folder")


def test_a_wrong_option_gives_those_there_are():
    with pytest.raises(
        ValueError, match=r"family module has no option 'nois'; nearest: noise\. Options: key=None, noise"
    ):
        models.load("module", "x:y", nois="edm")
    # What the call itself names is no option.
    with pytest.raises(ValueError, match="has no option 'model_name'"):
        models.load("module", "x:y", model_name="edm")


def test_what_it_gives_is_a_network():
    assert isinstance(models.load("module", "icrkit_extractors.models.denoiser:SmallUNet"), Network)


def test_families_are_imported_when_they_are_asked_for():
    code = (
        "import sys\nimport icrkit_extractors.models as m\nassert len(m.FAMILIES) == 7\n"
        "print(*(n for n in sys.modules if n.split('.')[0] in ('torch', 'diffusers', 'transformers', 'timm')"
        " or n.startswith('icrkit_extractors.models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["icrkit_extractors.models._network"]


@pytest.mark.parametrize("family", ["diffusers", "module"])
def test_options_of_a_family_import_no_framework(family):
    code = (
        f"import sys\nimport icrkit_extractors.models as m\nm.options({family!r})\n"
        "print(*(n for n in ('torch', 'diffusers', 'transformers') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []
