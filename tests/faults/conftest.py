"""The same fixtures as the integration tests."""

from tests.integration.conftest import node, own_folder, phantoms

__all__ = ["node", "own_folder", "phantoms"]
