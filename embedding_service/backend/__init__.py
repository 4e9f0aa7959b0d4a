"""The model behind a narrow door; nothing here knows of requests, queues or HTTP."""
