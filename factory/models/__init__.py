"""Models: clients of endpoints, servers that we start, and a scripted one for tests and dry runs."""
