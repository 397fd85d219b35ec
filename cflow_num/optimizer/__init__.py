"""What trains: hyperparameters, the filter of its averages, its multiplier, the program it was traced from."""
