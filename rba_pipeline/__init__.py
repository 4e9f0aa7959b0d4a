"""RBA publications become searchable vectors: documents → chunks → embeddings → vectors."""
