"""Actors of a Ray cluster of several nodes evaluate; those that are killed are started again."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
from test_execute import evaluated, expected, metrics
from toy import Toy, alone, designs, toy_of, toy_setup

from bitwright.search.ray_cluster import Ray
from bitwright.search.store import Store

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # sockets and threads of Ray's own


@pytest.fixture(scope="module")
def cluster():
    """A head and two nodes with a core each, all on this machine."""
    from ray.cluster_utils import Cluster

    here = os.path.dirname(__file__)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=100_000_000)
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_actors_on_several_nodes_find_what_one_finds_here_though_one_is_killed(tmp_path, cluster):
    executor = Ray(toy_setup(0.4), 2, "", Store(tmp_path), toy_of)
    pids = ray.get([actor.process.remote() for actor in executor.actors])

    def kill():
        while len(Store(tmp_path).log()) < 2:
            time.sleep(0.02)
        os.kill(pids[0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    wanted = designs(10)
    found = {}
    executor.evaluate(wanted, lambda design, figures: found.update({design: figures}))
    assert metrics(found) == expected(wanted)
    assert ray.get(executor.actors[0].process.remote()) != pids[0], "it was started again"
    executor.close()
    assert Counter(Store(tmp_path).log()) == Counter(design.key for design in wanted)


def test_actors_measure_damages_as_one_does_here(tmp_path, cluster):
    found = evaluated(Ray(toy_setup(0), 2, "", Store(tmp_path), toy_of), alone(3))
    assert found == {one: Toy(0).damage(one) for one in alone(3)}


def test_a_setup_that_fails_in_actors_ends_the_search_with_its_sentence(tmp_path, cluster):
    with pytest.raises(ValueError, match="there is no such model on this machine"):
        evaluated(Ray(toy_setup("fails"), 2, "", Store(tmp_path), toy_of), designs(2))
