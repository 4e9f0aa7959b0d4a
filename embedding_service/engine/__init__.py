"""Dynamic batching around one owner thread; knows no HTTP and no torch."""
