"""The process and its machine; nothing here knows torch."""
