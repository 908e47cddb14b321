"""The commands of ``ptuning``, one file each: its arguments, and a call of what does the work."""
