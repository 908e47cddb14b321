"""The long attack: kills, faults and damaged files, counted from seed to seed (``make chaos``)."""
