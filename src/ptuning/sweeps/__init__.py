"""Many runs: worker processes that stay warm, what is done, what is left, and a failure that stays one job's own."""
