"""Numbers from a record: how closely flows follow their optimizer, from what on, and what the distance is made of."""
