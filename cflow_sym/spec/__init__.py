"""What an optimizer is: hyperparameters, states and the update, checked before anything is derived from them."""
