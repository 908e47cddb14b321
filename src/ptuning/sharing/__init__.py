"""A delta as a thing that people share: exported, pushed, loaded, stacked."""
