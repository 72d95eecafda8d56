"""The cluster that the tests here share."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.daemons import Daemons, missing_programs


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of two CPUs. Without Slurm, or root to run it, the tests are skipped; not so in CI."""
    if absent := missing_programs():
        told = f"a Slurm cluster needs {', '.join(absent)} (Debian: slurm-wlm, munge; launchers/test.sh installs them as root)"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    with Daemons() as daemons:
        yield Cluster(daemons, tmp_path_factory.mktemp("slurm"))
