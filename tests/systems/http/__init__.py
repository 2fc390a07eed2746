"""The five products over HTTP: each request of their pages, sent to a server."""
