"""A package, so that its conftest is a different module from that of the other tests."""
