"""The configuration: its schema and rules, composing it, and sentences for its errors. Knows no torch."""
