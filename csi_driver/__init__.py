"""Any OpenStack Cinder volume driver as a Kubernetes CSI driver, with no OpenStack.

The rooms and who may know whom are described in docs/architecture.md and
enforced by the import contracts in pyproject.toml.  Importing this package
imports nothing else and changes nothing.
"""

__version__ = "0.1.0"
