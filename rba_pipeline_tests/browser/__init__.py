"""The web interface of a running installation, used by a browser as a user does: make browser."""
