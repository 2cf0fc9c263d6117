"""How pytest-xdist spreads the tests over processes."""

from xdist.scheduler import LoadScopeScheduling


class Groups(LoadScopeScheduling):
    """The tests of one group run in one process of pytest-xdist, and groups start in the order of the tests.

    The promises of one learner share its training and are one group; the other tests of a file share its fixtures and
    are one group. This class and not the mark xdist_group says so, since pytest 9.2 ignores that mark.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return nodeid.rpartition("-")[0] if test.startswith("test_promises[") else file
