"""Models and data of others: whatever a name, a folder or a file says becomes a task."""

from bitwright.sources.network import Network as Network
from bitwright.sources.resolve import load_network as load_network
from bitwright.sources.resolve import load_task as load_task
