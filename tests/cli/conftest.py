import pytest
from enrolled import World, enrol_all
from evidence_kit import whole_run


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Three hospitals after a run between machines of their own. alder's files are left as they are."""
    world = enrol_all(tmp_path_factory.mktemp("world"))
    whole_run(world)
    return world
