"""From a file's bytes to a document's parts: pure, no file is opened here."""
