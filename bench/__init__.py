"""Speed, side by side with a peer in one run, as ratios. Never a test: machines differ."""
